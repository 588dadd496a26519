//! The rules as `rules.toml` has them.

use std::collections::BTreeMap;

use serde::Deserialize;

const TEXT: &str = include_str!("rules.toml");

/// Everything that `rules.toml` says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rules {
    /// How long files and functions may be.
    pub(crate) size: Size,
    /// What no module may be called.
    pub(crate) names: Names,
    /// Which package may depend on which.
    pub(crate) packages: BTreeMap<String, Package>,
    /// Which module may use which, for each package that says so.
    pub(crate) layers: Vec<Layers>,
    /// Sequences of code that are banned.
    pub(crate) calls: Vec<Ban>,
    /// Pieces of text that are banned.
    pub(crate) marks: Vec<Ban>,
}

/// How long files and functions may be.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Size {
    /// Lines of a file.
    pub(crate) file: usize,
    /// Lines of a function, from its name to its closing brace.
    pub(crate) function: usize,
    /// Extensions of the files that are counted.
    pub(crate) extensions: Vec<String>,
    /// Files with a limit of their own.
    pub(crate) own: BTreeMap<String, usize>,
}

impl Size {
    /// Whether a file's lines are counted.
    pub(crate) fn applies_to(&self, path: &str) -> bool {
        self.extensions
            .iter()
            .any(|extension| path.ends_with(&format!(".{extension}")))
    }
}

/// What no module may be called.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Names {
    /// Words for "everything else".
    pub(crate) banned: Vec<String>,
}

/// What a package of the workspace may depend on, of the workspace.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Package {
    /// In what it ships.
    pub(crate) uses: Vec<String>,
    /// In its tests, besides.
    #[serde(default)]
    pub(crate) tests_use: Vec<String>,
}

/// Which module of a package may use which.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Layers {
    /// The folder with the package's sources.
    pub(crate) folder: String,
    /// Modules from the bottom up: each may use those before it.
    #[serde(default)]
    pub(crate) order: Vec<String>,
    /// Modules that may use those named, and no others.
    #[serde(default)]
    pub(crate) uses: BTreeMap<String, Vec<String>>,
}

impl Layers {
    /// The modules that a module may use; None if the table does not have it.
    pub(crate) fn allowed(&self, module: &str) -> Option<&[String]> {
        if let Some(named) = self.uses.get(module) {
            return Some(named);
        }
        let place = self.order.iter().position(|name| name == module)?;
        Some(&self.order[..place])
    }
}

/// Something that may not be written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ban {
    /// What may not be written; each alone.
    pub(crate) words: Vec<String>,
    /// Only under these paths; everywhere if empty.
    #[serde(default)]
    pub(crate) under: Vec<String>,
    /// But not under these.
    #[serde(default)]
    pub(crate) except: Vec<String>,
    /// The reason, and what to write instead.
    pub(crate) instead: String,
}

impl Ban {
    /// Whether the ban holds in a file.
    pub(crate) fn applies_to(&self, path: &str) -> bool {
        let within = |folders: &[String]| {
            folders
                .iter()
                .any(|folder| path.starts_with(folder.as_str()))
        };
        (self.under.is_empty() || within(&self.under)) && !within(&self.except)
    }
}

impl Rules {
    /// Reads the committed rules.
    pub(crate) fn read() -> Self {
        toml::from_str(TEXT).expect("rules.toml is well-formed")
    }
}
