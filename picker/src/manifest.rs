//! Manifests: YAML documents of files, folders and standard input, each with the place it stands at.

pub(crate) mod workload;

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

/// The largest file that is read.
const FILE_MAX_BYTES: u64 = 32 << 20;
/// The deepest folder below one that is given.
const DEPTH_MAX: usize = 16;

/// One object, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Where it stands.
    pub place: Place,
    /// The object.
    pub object: Value,
}

/// What was read.
#[derive(Debug, Default)]
pub struct Manifests {
    /// The objects.
    pub documents: Vec<Document>,
    /// Documents of folders that are no objects at all, such as values of a chart.
    pub others: Vec<Place>,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, or `standard input`.
    pub file: Arc<str>,
    /// The document in it, from 1.
    pub document: usize,
}

/// Input that cannot be read.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// A file or folder that cannot be read.
    #[error("{0}: {1}; give files or folders that exist and can be read, or - for standard input")]
    File(String, io::Error),
    /// A file that is too large.
    #[error("{0}: it has over 32 MiB; split it")]
    TooLarge(String),
    /// Folders without any manifest.
    #[error("{0}: there is no .yaml, .yml or .json in it; name the files, or another folder")]
    Empty(String),
    /// A document that is no YAML.
    #[error("{0}: {1}; correct the YAML there")]
    Yaml(Place, String),
    /// A document that is no object of Kubernetes.
    #[error("{0}: field `{1}`: {2}; {3}")]
    Field(Place, String, String, String),
}

/// Reads every document of `paths`, those of lists one by one. What lies in a folder and is no object is passed over; what
/// is named has to be one.
///
/// # Errors
/// [`ManifestError`], which names file, document and field.
pub fn read(paths: &[PathBuf]) -> Result<Manifests, ManifestError> {
    let mut read = Manifests::default();
    for path in paths {
        if path.as_os_str() == "-" {
            let mut text = String::new();
            let done = io::stdin().take(FILE_MAX_BYTES).read_to_string(&mut text);
            done.map_err(|error| ManifestError::File("standard input".into(), error))?;
            parse("standard input", &text, true, &mut read)?;
            continue;
        }
        let mut files = Vec::new();
        collect(path, 0, &mut files)?;
        if files.is_empty() {
            return Err(ManifestError::Empty(path.display().to_string()));
        }
        for file in files {
            let name = file.display().to_string();
            let wrong = |error| ManifestError::File(name.clone(), error);
            if fs::metadata(&file).map_err(wrong)?.len() > FILE_MAX_BYTES {
                return Err(ManifestError::TooLarge(name));
            }
            let text = fs::read_to_string(&file).map_err(wrong)?;
            parse(&name, &text, file == *path, &mut read)?;
        }
    }
    Ok(read)
}

/// The files at or below a path, in order; of a folder, those that look like manifests.
fn collect(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), ManifestError> {
    let wrong = |error| ManifestError::File(path.display().to_string(), error);
    if !fs::metadata(path).map_err(wrong)?.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let mut entries = Vec::new();
    for entry in fs::read_dir(path).map_err(wrong)? {
        entries.push(entry.map_err(wrong)?.path());
    }
    entries.sort();
    for entry in entries {
        let suffix = entry.extension().and_then(|it| it.to_str());
        let is_manifest = matches!(suffix, Some("yaml" | "yml" | "json"));
        if is_manifest || (entry.is_dir() && depth < DEPTH_MAX) {
            collect(&entry, depth + 1, files)?;
        }
    }
    Ok(())
}

/// The documents of a text; if it `is_named`, each has to be an object.
///
/// # Errors
/// [`ManifestError`].
pub fn parse(
    file: &str,
    text: &str,
    is_named: bool,
    into: &mut Manifests,
) -> Result<(), ManifestError> {
    let mut first_line = 0;
    for (number, (before, body)) in split(text).into_iter().enumerate() {
        first_line += before;
        let place = Place {
            file: file.into(),
            document: number + 1,
        };
        let object: Value = serde_saphyr::from_str(body).map_err(|error| {
            let line = error.location().map(|it| it.line());
            let line = line.map_or(0, |it| it as usize) + first_line;
            let why = error.without_snippet().to_string();
            ManifestError::Yaml(place.clone(), format!("near line {line}: {why}"))
        })?;
        let is_object = object["kind"].is_string() || object["apiVersion"].is_string();
        if !is_named && !is_object && !object.is_null() {
            into.others.push(place);
            continue;
        }
        take(place, object, &mut into.documents)?;
    }
    Ok(())
}

/// The texts between lines `---`, each with the lines that stand between the beginning of the one before and its own.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut parts = Vec::new();
    let (mut begin, mut at, mut lines, mut before) = (0, 0, 0, 0);
    for line in text.split_inclusive('\n') {
        let bare = line.trim_end();
        if bare == "---" || bare.starts_with("--- ") {
            parts.push((before, &text[begin..at]));
            begin = at + line.len();
            before = lines + 1;
            lines = 0;
        } else {
            lines += 1;
        }
        at += line.len();
    }
    parts.push((before, &text[begin..]));
    // What stands before the first line `---` is mostly a comment, and no document.
    if parts.len() > 1 && is_blank(parts[0].1) {
        let (_, first) = parts.remove(0);
        debug_assert!(is_blank(first));
    }
    parts
}

fn is_blank(text: &str) -> bool {
    text.lines()
        .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
}

/// Takes over an object, or each object of a list.
fn take(place: Place, object: Value, into: &mut Vec<Document>) -> Result<(), ManifestError> {
    if object.is_null() {
        return Ok(());
    }
    let wrong = |field: &str, what: &str| {
        let remedy = "a manifest has apiVersion, kind and metadata.name";
        let field = field.to_owned();
        ManifestError::Field(place.clone(), field, what.to_owned(), remedy.to_owned())
    };
    let Some(kind) = object["kind"].as_str() else {
        return Err(wrong("kind", "it is missing"));
    };
    if object["apiVersion"].as_str().is_none() {
        return Err(wrong("apiVersion", "it is missing"));
    }
    if kind.ends_with("List") && object["items"].is_array() {
        let Value::Array(items) = object["items"].clone() else {
            return Ok(());
        };
        for item in items {
            take(place.clone(), item, into)?;
        }
        return Ok(());
    }
    // What kustomize and the like read themselves has no name.
    if object["metadata"]["name"].as_str().is_some() {
        into.push(Document { place, object });
    } else if !matches!(kind, "Kustomization" | "Component") {
        return Err(wrong("metadata.name", "it is missing"));
    }
    Ok(())
}

impl Document {
    /// The API group; empty for that of Pods and Services.
    #[must_use]
    pub fn group(&self) -> &str {
        let version = self.object["apiVersion"].as_str().unwrap_or_default();
        version.split_once('/').map_or("", |(group, _)| group)
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.object["kind"].as_str().unwrap_or_default()
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// The namespace, if one is written.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.object["metadata"]["namespace"].as_str()
    }

    /// The object as a value of a type.
    ///
    /// # Errors
    /// [`ManifestError::Field`].
    pub fn read_as<T: DeserializeOwned>(&self) -> Result<T, ManifestError> {
        serde_path_to_error::deserialize(&self.object).map_err(|error| {
            let path = error.path().to_string();
            let remedy = format!(
                "correct {} {}, or see `kubectl explain {}`",
                self.kind(),
                self.name(),
                self.kind().to_lowercase()
            );
            let why = error.into_inner().to_string();
            ManifestError::Field(self.place.clone(), path, why, remedy)
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}, document {}", self.file, self.document)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<(usize, String)> {
        let mut read = Manifests::default();
        parse("a.yaml", text, true, &mut read).expect("manifests");
        let name = |it: &Document| (it.place.document, it.name().to_owned());
        read.documents.iter().map(name).collect()
    }

    #[test]
    fn documents_are_counted_as_kubectl_counts_them() {
        let one = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n";
        assert_eq!(names(one), [(1, "a".into())]);
        let text = format!("# a comment\n---\n{one}---\n\n---\n{one}");
        assert_eq!(names(&text), [(1, "a".into()), (3, "a".into())]);
        let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: b}}\n";
        assert_eq!(names(list), [(1, "b".into())]);
    }

    #[test]
    fn what_is_no_object_is_passed_over_in_a_folder_alone() {
        let values = "replicas: 3\nimage: {tag: v1}\n";
        let mut read = Manifests::default();
        parse("values.yaml", values, false, &mut read).expect("it is passed over");
        assert_eq!((read.documents.len(), read.others.len()), (0, 1));
        assert!(parse("values.yaml", values, true, &mut read).is_err());
    }

    #[test]
    fn what_cannot_be_read_is_named_with_file_document_and_line() {
        let error = |text: &str| {
            let read = parse("a.yaml", text, true, &mut Manifests::default());
            read.expect_err("this is wrong").to_string()
        };
        let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n---\nkind: [\n";
        let told = error(text);
        assert!(told.starts_with("a.yaml, document 2: near line"), "{told}");
        let told = error("kind: Service\nmetadata: {name: a}\n");
        assert!(told.contains("document 1: field `apiVersion`"), "{told}");
    }
}
