//! Endpoints files: pools without Kubernetes, re-read when they change.
//!
//! ```yaml
//! endpoints:
//!   - {name: vllm-0, address: 10.0.0.1, port: "8000"}
//! endpointPickerRef: {name: chat-epp, port: {number: 9012}}   # optional, like what follows
//! objectives:
//!   - {name: batch, priority: -1, models: [llama-batch]}
//! rewrites:
//!   - name: canary
//!     matchHeaders: {x-team: search}
//!     stickyHeader: x-user
//!     rules:
//!       - matches: [{model: {value: llama}}]
//!         targets: [{modelRewrite: llama-v1, weight: 9}, {modelRewrite: llama-v2, weight: 1}]
//! ```
//!
//! The form of `endpoints` is upstream's; `endpointPickerRef` is that of an InferencePool, and `rules` that of an
//! InferenceModelRewrite.

mod object;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use picker_core::endpoint::Endpoint;
use picker_core::route::PoolKey;
use serde::Deserialize;
use thiserror::Error;
use tokio::sync::mpsc;
use tracing::{info, warn};

use self::object::{ObjectiveEntry, RewriteEntry};
use super::engines::Engines;
use crate::driver::{PoolSpec, Pools};

/// The largest endpoints file; as upstream.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// The wait between news of a change and reading it.
const SETTLE: Duration = Duration::from_millis(50);

/// What is wrong with an endpoints file.
#[derive(Debug, Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("endpoints file {0}: {1}; check the path and its permissions")]
    Unreadable(PathBuf, std::io::Error),
    /// It is too large.
    #[error(
        "endpoints file {0}: {1} bytes, at most {FILE_MAX_BYTES} are read; split it into pools"
    )]
    TooLarge(PathBuf, u64),
    /// It is no YAML of the expected form.
    #[error("endpoints file {0}: {1}")]
    Malformed(PathBuf, String),
    /// A field has a value that cannot be.
    #[error("endpoints file {file}: {field}: `{value}` {remedy}")]
    Value {
        /// The file.
        file: PathBuf,
        /// Where in it.
        field: String,
        /// What stands there.
        value: String,
        /// What should.
        remedy: &'static str,
    },
    /// Its changes cannot be followed.
    #[error("endpoints file {0}: cannot be watched for changes: {1}")]
    Unwatchable(PathBuf, notify::Error),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Document {
    endpoints: Vec<Entry>,
    endpoint_picker_ref: Option<PickerRef>,
    #[serde(default)]
    objectives: Vec<ObjectiveEntry>,
    #[serde(default)]
    rewrites: Vec<RewriteEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    namespace: Option<String>,
    address: String,
    port: Port,
    /// As upstream has them; the one that names the engine counts.
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Port {
    Number(u64),
    Text(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PickerRef {
    name: String,
    port: Option<PickerPort>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PickerPort {
    number: u16,
}

/// The endpoints files of a process.
#[derive(Debug)]
pub struct Files {
    files: Vec<(PoolKey, PathBuf)>,
    /// The listener of all pools: a file that names it asks for no listener of its own.
    shared_port: u16,
    engines: Engines,
    /// What each file said when it was last well-formed.
    specs: BTreeMap<PoolKey, PoolSpec>,
}

impl Files {
    /// Reads every file for the first time.
    ///
    /// # Errors
    /// The first [`FileError`].
    pub fn read(files: Vec<(PoolKey, PathBuf)>, shared_port: u16) -> Result<Self, FileError> {
        let mut specs = BTreeMap::new();
        let mut engines = Engines::known();
        for (pool, file) in &files {
            specs.insert(pool.clone(), read(pool, file, shared_port, &mut engines)?);
        }
        Ok(Self {
            files,
            shared_port,
            engines,
            specs,
        })
    }

    /// What the files say.
    #[must_use]
    pub fn specs(&self) -> Vec<(PoolKey, PoolSpec)> {
        self.specs
            .iter()
            .map(|(pool, spec)| (pool.clone(), spec.clone()))
            .collect()
    }

    /// Follows the files for ever. A file that becomes malformed keeps what it said before.
    ///
    /// # Errors
    /// [`FileError::Unwatchable`].
    pub async fn follow(mut self, pools: Arc<Pools>) -> Result<(), FileError> {
        let (changed, mut changes) = mpsc::channel::<()>(1);
        let _watchers = self.watch(&changed)?;
        // What changed between the first reading and the watch is read now.
        loop {
            if self.reread() {
                pools.replace(self.specs());
            }
            if changes.recv().await.is_none() {
                return Ok(());
            }
            // One change is many events; and a folder where much else is written is not read all the time.
            tokio::time::sleep(SETTLE).await;
        }
    }

    /// Watches the folders of the files, since mounted ConfigMaps and editors replace files whole.
    fn watch(&self, changed: &mpsc::Sender<()>) -> Result<Vec<RecommendedWatcher>, FileError> {
        let mut folders = BTreeMap::new();
        for (_, file) in &self.files {
            let folder = file
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty());
            folders.insert(folder.unwrap_or(Path::new(".")), file);
        }
        let mut watchers = Vec::new();
        for (folder, file) in folders {
            let changed = changed.clone();
            let note = move |event: notify::Result<notify::Event>| {
                if event.is_ok_and(|event| !is_change(event.kind)) {
                    return;
                }
                // A full channel already says that something has changed.
                let _already_noted = changed.try_send(());
            };
            let watcher = notify::recommended_watcher(note).and_then(|mut watcher| {
                watcher.watch(folder, RecursiveMode::NonRecursive)?;
                Ok(watcher)
            });
            watchers.push(watcher.map_err(|error| FileError::Unwatchable(file.clone(), error))?);
        }
        Ok(watchers)
    }

    /// Reads every file again; whether any says something new.
    fn reread(&mut self) -> bool {
        let mut news = false;
        for (pool, file) in &self.files {
            match read(pool, file, self.shared_port, &mut self.engines) {
                Ok(spec) if self.specs.get(pool) == Some(&spec) => {}
                Ok(spec) => {
                    info!(%pool, file = %file.display(), endpoints = spec.endpoints.len(), "endpoints changed");
                    self.specs.insert(pool.clone(), spec);
                    news = true;
                }
                Err(error) => warn!(%pool, %error, "endpoints stay as they were"),
            }
        }
        news
    }
}

/// Whether an event may mean that a file says something new. Our own reading of it is an event, too.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    }
}

/// What one file says.
fn read(
    pool: &PoolKey,
    file: &Path,
    shared_port: u16,
    engines: &mut Engines,
) -> Result<PoolSpec, FileError> {
    let unreadable = |error| FileError::Unreadable(file.to_owned(), error);
    let length = fs::metadata(file).map_err(unreadable)?.len();
    if length > FILE_MAX_BYTES {
        return Err(FileError::TooLarge(file.to_owned(), length));
    }
    let text = fs::read_to_string(file).map_err(unreadable)?;
    let mut spec = parse(pool, file, &text, engines)?;
    spec.port = spec.port.filter(|&port| port != shared_port);
    Ok(spec)
}

fn parse(
    pool: &PoolKey,
    file: &Path,
    text: &str,
    engines: &mut Engines,
) -> Result<PoolSpec, FileError> {
    let document: Document = serde_saphyr::from_str(text)
        .map_err(|error| FileError::Malformed(file.to_owned(), error.to_string()))?;
    let mut seen = BTreeSet::new();
    let mut endpoints = Vec::with_capacity(document.endpoints.len());
    for (index, entry) in document.endpoints.into_iter().enumerate() {
        let wrong = |name: &str, value: &str, remedy| FileError::Value {
            file: file.to_owned(),
            field: format!("endpoints[{index}].{name}"),
            value: value.to_owned(),
            remedy,
        };
        let ip: IpAddr = entry.address.parse().map_err(|_| {
            wrong(
                "address",
                &entry.address,
                "is no IP address; host names are not looked up",
            )
        })?;
        let port = entry
            .port
            .number()
            .map_err(|text| wrong("port", &text, "is no port; write a number from 1 to 65535"))?;
        let address = SocketAddr::new(ip, port);
        if !seen.insert(address) {
            let twice = "stands twice; list each endpoint once";
            return Err(wrong("address", &address.to_string(), twice));
        }
        let namespace = entry.namespace.as_deref().unwrap_or(&pool.namespace);
        endpoints.push(Endpoint {
            identity: address.to_string().into(),
            name: format!("{namespace}/{}", entry.name).into(),
            address,
            engine: engines.of(&entry.labels),
        });
    }
    let picker = document.endpoint_picker_ref;
    Ok(PoolSpec {
        port: picker
            .as_ref()
            .and_then(|picker| picker.port.as_ref())
            .map(|port| port.number),
        service: picker.map(|picker| picker.name.into()),
        endpoints,
        objectives: document
            .objectives
            .into_iter()
            .map(|one| one.of(pool))
            .collect(),
        rewrites: document
            .rewrites
            .into_iter()
            .map(|one| one.of(pool))
            .collect(),
    })
}

impl Port {
    fn number(&self) -> Result<u16, String> {
        let text = match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
        };
        match text.parse() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use picker_core::view::{Asked, PoolView};

    use super::*;

    fn check(text: &str) -> Result<PoolSpec, String> {
        let pool = PoolKey::new("ai", "chat");
        let engines = &mut Engines::known();
        parse(&pool, Path::new("e.yaml"), text, engines).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_gives_endpoints_and_the_reference_to_the_picker() {
        let text = "
endpoints:
- {name: a, address: 10.0.0.1, port: \"8000\", labels: {llm-d.ai/engine-type: sglang, zone: x}}
- {name: b, namespace: other, address: 'fd00::1', port: 8001}
endpointPickerRef: {name: chat-epp, port: {number: 9012}}
";
        let spec = check(text).expect("well-formed");
        let endpoints: Vec<(&str, String)> = spec
            .endpoints
            .iter()
            .map(|one| (&*one.name, one.address.to_string()))
            .collect();
        let expected = [
            ("ai/a", "10.0.0.1:8000".into()),
            ("other/b", "[fd00::1]:8001".into()),
        ];
        assert_eq!(endpoints, expected);
        let engines = spec.endpoints.iter().map(|one| &*one.engine.name);
        assert_eq!(engines.collect::<Vec<_>>(), ["sglang", "vllm"]);
        assert_eq!(
            (spec.service.as_deref(), spec.port),
            (Some("chat-epp"), Some(9012))
        );
    }

    #[test]
    fn a_file_gives_priorities_and_models_as_objects_of_its_pool_would() {
        let text = "
endpoints: []
objectives: [{name: batch, priority: -1, models: [nightly]}]
rewrites:
- name: canary
  matchHeaders: {x-team: search}
  rules: [{matches: [{model: {value: llama}}], targets: [{modelRewrite: llama-v2}]}]
";
        let spec = check(text).expect("well-formed");
        let view = PoolView::new(
            &PoolKey::new("ai", "chat"),
            &spec.objectives,
            &spec.rewrites,
        );
        let asked = |model, headers| Asked {
            model: Some(model),
            headers,
        };
        assert_eq!(view.standing(&asked("nightly", &[])).priority, -1);
        assert_eq!(view.standing(&asked("llama", &[])).priority, 0);
        let gets = |headers| view.target(&asked("llama", headers), 0).map(|it| it.model);
        assert_eq!(gets(&[]), None);
        assert_eq!(gets(&[("x-team", "search")]).as_deref(), Some("llama-v2"));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_value_and_the_remedy() {
        for (text, expected) in [
            (
                "endpoints: [{name: a, address: vllm-0, port: 8000}]",
                "endpoints file e.yaml: endpoints[0].address: `vllm-0` is no IP address; host names are not looked up",
            ),
            (
                "endpoints: [{name: a, address: 10.0.0.1, port: 0}]",
                "endpoints file e.yaml: endpoints[0].port: `0` is no port; write a number from 1 to 65535",
            ),
            (
                "endpoints: [{name: a, address: 10.0.0.1, port: 1}, {name: b, address: 10.0.0.1, port: '1'}]",
                "endpoints file e.yaml: endpoints[1].address: `10.0.0.1:1` stands twice; list each endpoint once",
            ),
        ] {
            assert_eq!(check(text).expect_err(text), expected);
        }
    }

    #[test]
    fn reading_a_file_is_no_change_of_it() {
        use notify::event::{CreateKind, ModifyKind, RemoveKind, RenameMode};
        for access in [
            AccessKind::Read,
            AccessKind::Open(AccessMode::Any),
            AccessKind::Close(AccessMode::Read),
        ] {
            assert!(!is_change(EventKind::Access(access)), "{access:?}");
        }
        for kind in [
            EventKind::Access(AccessKind::Close(AccessMode::Write)),
            EventKind::Create(CreateKind::File),
            EventKind::Modify(ModifyKind::Name(RenameMode::To)),
            EventKind::Remove(RemoveKind::File),
        ] {
            assert!(is_change(kind), "{kind:?}");
        }
    }

    #[test]
    fn an_unknown_or_missing_field_is_named() {
        let unknown = check("endpoints: []\npool: x").expect_err("an unknown field");
        assert!(unknown.contains("pool"), "{unknown}");
        let missing = check("{}").expect_err("a missing field");
        assert!(missing.contains("endpoints"), "{missing}");
    }
}
