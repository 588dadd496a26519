//! `pointsman migrate` by cases: what goes in, and the YAML and notices that come out. What comes out passes `check`.
//!
//! `cases/NAME.in.yaml` is the input, with its name and flags in comments; `cases/NAME.out.yaml` what is written, with the
//! notices in comments. `UPDATE_EXPECT=1 cargo test -p picker --test migrate` writes the latter anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

#[test]
fn every_case_comes_out_as_it_is_written_down() {
    let cases = inputs();
    assert!(cases.len() >= 20, "{} cases", cases.len());
    for input in cases {
        let done = migrate(&input);
        let errors = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(0), "{}: {errors}", input.display());
        let notices: String = errors
            .lines()
            .map(|line| format!("# {}\n", line.trim_end()))
            .collect();
        let found = format!("{}# What became of it:\n#\n{notices}", text(&done.stdout));
        let path = output_of(&input);
        let expected = fs::read_to_string(&path).unwrap_or_default();
        if found == expected {
            continue;
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "a test has no arguments of its own"
        )]
        let update = std::env::var("UPDATE_EXPECT").is_ok();
        assert!(
            update,
            "{} differs; run with UPDATE_EXPECT=1 and read the difference. Found:\n{found}",
            path.display()
        );
        fs::write(&path, found).expect("the case can be written");
    }
}

#[test]
fn what_comes_out_passes_check_alone_and_with_what_went_in() {
    for input in inputs() {
        let output = output_of(&input).display().to_string();
        assert_sound(&["check", &output]);
        // Values of a chart are no manifests. What comes out takes the place of what went in.
        if !is_values(&input) {
            let picker = folder().join("picker.yaml").display().to_string();
            assert_sound(&["check", &input.display().to_string(), &picker, &output]);
        }
    }
}

#[test]
fn an_input_without_anything_to_convert_ends_with_2() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("service.yaml");
    fs::write(
        &file,
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n",
    )
    .expect("a file");
    let path = file.display().to_string();
    let done = pointsman(&["migrate", &path]);
    let told = text(&done.stderr);
    assert_eq!(done.status.code(), Some(2), "{told}");
    assert!(
        told.contains("neither an Ingress nor an HTTPRoute"),
        "{told}"
    );
    let done = pointsman(&["migrate", "--release=a", "--helm-values", &path]);
    let told = text(&done.stderr);
    assert_eq!(done.status.code(), Some(2), "{told}");
    assert!(told.contains("field `router`"), "{told}");
}

fn assert_sound(arguments: &[&str]) {
    let done = pointsman(arguments);
    let told = text(&done.stdout) + &text(&done.stderr);
    assert_eq!(done.status.code(), Some(0), "{arguments:?}: {told}");
}

fn migrate(input: &Path) -> Output {
    let text = fs::read_to_string(input).expect("a case");
    let flags = text.lines().find_map(|line| line.strip_prefix("# flags: "));
    let path = input.display().to_string();
    let mut arguments = vec!["migrate"];
    arguments.extend(flags.unwrap_or_default().split_whitespace());
    if is_values(input) {
        arguments.push("--helm-values");
    }
    arguments.push(&path);
    pointsman(&arguments)
}

fn is_values(input: &Path) -> bool {
    let name = input.file_name().and_then(|it| it.to_str());
    name.is_some_and(|it| it.contains("-helm-"))
}

fn pointsman(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    command.args(arguments).env_remove("KUBECONFIG");
    command.output().expect("the binary is built")
}

fn inputs() -> Vec<PathBuf> {
    let entries = fs::read_dir(folder().join("cases")).expect("the cases are there");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<_> = paths
        .filter(|path| path.to_str().is_some_and(|it| it.ends_with(".in.yaml")))
        .collect();
    paths.sort();
    paths
}

fn output_of(input: &Path) -> PathBuf {
    input
        .display()
        .to_string()
        .replace(".in.yaml", ".out.yaml")
        .into()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/migrate")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}
