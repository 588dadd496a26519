//! A kube-apiserver with an etcd of its own, as child processes on free ports of this machine.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tempfile::TempDir;

use super::scene::{eventually, repository};

/// Who may do everything.
const ADMIN: &str = "admin-token";

/// A running API server; both processes end when it is dropped.
pub(crate) struct ApiServer {
    folder: TempDir,
    pub(super) assets: PathBuf,
    port: u16,
    etcd_port: u16,
    _etcd: Process,
    server: Option<Process>,
    /// A client that may do everything.
    pub(crate) client: Client,
}

/// A child process that is killed with its owner.
struct Process(Mutex<Child>);

impl ApiServer {
    /// Starts both and waits until the API server is ready.
    pub(crate) async fn start() -> Self {
        let assets = assets();
        let folder = tempfile::tempdir().expect("a folder");
        let [port, etcd_port, peer_port] = free_ports();
        let data = folder.path().join("etcd");
        let client_url = format!("--listen-client-urls=http://127.0.0.1:{etcd_port}");
        let advertised = format!("--advertise-client-urls=http://127.0.0.1:{etcd_port}");
        let peer = format!("http://127.0.0.1:{peer_port}");
        let etcd = [
            format!("--data-dir={}", data.display()),
            client_url,
            advertised,
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            "--unsafe-no-fsync".to_owned(),
        ];
        let etcd = Process::start(&assets.join("etcd"), &etcd, &folder.path().join("etcd.log"));
        let key = rcgen::KeyPair::generate().expect("a key");
        for (name, text) in [
            ("service-accounts.key", key.serialize_pem()),
            ("service-accounts.pub", key.public_key_pem()),
        ] {
            fs::write(folder.path().join(name), text).expect("the key is written");
        }
        fs::write(
            folder.path().join("tokens.csv"),
            format!("{ADMIN},admin,admin,system:masters\nreader-token,reader,reader\n"),
        )
        .expect("the tokens are written");
        let server = start_server(&assets, folder.path(), port, etcd_port);
        let client = client(folder.path(), port, ADMIN, &server).await;
        let api_server = Self {
            folder,
            assets,
            port,
            etcd_port,
            _etcd: etcd,
            server: Some(server),
            client,
        };
        api_server.ready().await;
        api_server
    }

    /// Ends the API server, as a crash would.
    pub(crate) fn stop(&mut self) {
        self.server = None;
    }

    /// Starts it again where it was, with all that it knew.
    pub(crate) async fn start_again(&mut self) {
        let server = start_server(&self.assets, self.folder.path(), self.port, self.etcd_port);
        self.server = Some(server);
        self.ready().await;
    }

    /// A kubeconfig for whoever has `token`; everything is allowed without one.
    pub(crate) fn kubeconfig(&self, name: &str, token: Option<&str>) -> PathBuf {
        let path = self.folder.path().join(format!("{name}.kubeconfig"));
        let text = kubeconfig(self.folder.path(), self.port, token.unwrap_or(ADMIN));
        fs::write(&path, text).expect("the kubeconfig is written");
        path
    }

    fn has_ended(&self) -> bool {
        let server = self.server.as_ref().expect("it was started");
        let mut child = server.0.lock().expect("nobody panicked");
        matches!(child.try_wait(), Ok(Some(_)))
    }

    async fn ready(&self) {
        eventually("the API server is ready", async || {
            let request = http::Request::get("/readyz").body(Vec::new());
            let request = request.expect("a request");
            self.client.request_text(request).await.is_ok() || self.has_ended()
        })
        .await;
        let log = fs::read_to_string(self.folder.path().join("kube-apiserver.log"));
        let log = log.unwrap_or_default();
        assert!(!self.has_ended(), "the API server has ended: {log}");
    }
}

impl Process {
    fn start(executable: &Path, arguments: &[String], log: &Path) -> Self {
        let output = File::create(log).expect("a log");
        let errors = output.try_clone().expect("a log");
        let child = Command::new(executable)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn();
        let child = child.unwrap_or_else(|error| panic!("{}: {error}", executable.display()));
        Self(Mutex::new(child))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.0.get_mut().expect("nobody panicked");
        drop(child.kill());
        drop(child.wait());
    }
}

fn start_server(assets: &Path, folder: &Path, port: u16, etcd_port: u16) -> Process {
    let at = |name: &str| folder.join(name).display().to_string();
    let arguments = [
        format!("--etcd-servers=http://127.0.0.1:{etcd_port}"),
        format!("--secure-port={port}"),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--cert-dir={}", at("certificates")),
        format!("--token-auth-file={}", at("tokens.csv")),
        format!("--service-account-key-file={}", at("service-accounts.pub")),
        format!(
            "--service-account-signing-key-file={}",
            at("service-accounts.key")
        ),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
        "--authorization-mode=RBAC".to_owned(),
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        "--watch-cache=true".to_owned(),
    ];
    let log = folder.join("kube-apiserver.log");
    Process::start(&assets.join("kube-apiserver"), &arguments, &log)
}

/// A client, once the API server has written its certificate.
async fn client(folder: &Path, port: u16, token: &str, _server: &Process) -> Client {
    let certificate = folder.join("certificates/apiserver.crt");
    eventually("the API server has a certificate", async || {
        certificate.exists() && folder.join("certificates/apiserver.key").exists()
    })
    .await;
    let read = Kubeconfig::from_yaml(&kubeconfig(folder, port, token)).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
    Client::try_from(config.expect("a configuration")).expect("a client")
}

/// A client by a kubeconfig.
pub(crate) async fn client_of(kubeconfig: &Path) -> Client {
    let read = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
    Client::try_from(config.expect("a configuration")).expect("a client")
}

fn kubeconfig(folder: &Path, port: u16, token: &str) -> String {
    let certificate = folder.join("certificates/apiserver.crt");
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: test
  cluster: {{server: \"https://127.0.0.1:{port}\", certificate-authority: \"{}\"}}
users:
- name: test
  user: {{token: {token}}}
contexts:
- name: test
  context: {{cluster: test, user: test}}
current-context: test
",
        certificate.display()
    )
}

/// Ports that were free a moment ago, and are all different.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let listeners =
        [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"));
    listeners.map(|one| one.local_addr().expect("an address").port())
}

/// The folder with the executables, which `tools/kubernetes.py` builds if it is not there yet.
fn assets() -> PathBuf {
    let built = Command::new("python3")
        .args(["-B", "tools/kubernetes.py"])
        .current_dir(repository())
        .output()
        .expect("python3 is installed");
    let errors = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "tools/kubernetes.py: {errors}");
    String::from_utf8(built.stdout)
        .expect("a path")
        .trim()
        .into()
}
