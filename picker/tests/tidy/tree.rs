//! The files of the repository that people wrote.

use std::fs;
use std::path::{Path, PathBuf};

/// What a build or a tool makes; never looked into.
const MADE: [&str; 4] = [".git", "target", "__pycache__", "node_modules"];

/// A file of the repository.
pub(crate) struct File {
    /// From the top of the repository, with `/` between the parts.
    pub(crate) path: String,
    /// What it says; bytes that are not UTF-8 are replaced.
    pub(crate) text: String,
}

/// Every file of the repository, and the folders it has.
pub(crate) struct Tree {
    /// In the order of their paths.
    pub(crate) files: Vec<File>,
    folders: Vec<String>,
}

impl Tree {
    /// Reads the whole repository.
    pub(crate) fn read() -> Self {
        let mut tree = Self {
            files: Vec::new(),
            folders: vec![String::new()],
        };
        tree.read_folder("");
        tree.files.sort_by(|one, other| one.path.cmp(&other.path));
        tree
    }

    /// A tree of made-up files.
    pub(crate) fn of(files: impl IntoIterator<Item = (String, String)>) -> Self {
        let files = files
            .into_iter()
            .map(|(path, text)| File { path, text })
            .collect();
        Self {
            files,
            folders: vec![String::new()],
        }
    }

    /// The files whose name ends with an extension.
    pub(crate) fn with_extension(&self, extension: &str) -> Vec<&File> {
        let matches = |file: &&File| {
            Path::new(&file.path)
                .extension()
                .is_some_and(|it| it == extension)
        };
        self.files.iter().filter(matches).collect()
    }

    /// Path and text of every Rust source.
    pub(crate) fn sources(&self) -> Vec<(&str, &str)> {
        self.with_extension("rs")
            .iter()
            .map(|file| (file.path.as_str(), file.text.as_str()))
            .collect()
    }

    /// The text of a file, if it is there.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.files
            .iter()
            .find(|file| file.path == path)
            .map(|file| file.text.as_str())
    }

    /// Whether a path is a file or a folder of the repository.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.text(path).is_some() || self.folders.iter().any(|folder| folder == path)
    }

    fn read_folder(&mut self, folder: &str) {
        let entries =
            fs::read_dir(root().join(folder)).expect("a folder of the repository can be read");
        for entry in entries {
            let entry = entry.expect("a folder of the repository can be read");
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if folder.is_empty() {
                name.clone()
            } else {
                format!("{folder}/{name}")
            };
            // In a second work tree, .git is a file.
            if MADE.contains(&name.as_str()) {
                continue;
            }
            let kind = entry.file_type().expect("a file has a type");
            if kind.is_dir() {
                self.read_folder(&path);
                self.folders.push(path);
            } else if kind.is_file() {
                // A file may go between the listing and the reading: an editor's, say.
                if let Ok(bytes) = fs::read(entry.path()) {
                    self.files.push(File {
                        path,
                        text: String::from_utf8_lossy(&bytes).into_owned(),
                    });
                }
            }
        }
    }
}

/// The top of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package is in a folder of the repository")
        .to_owned()
}
