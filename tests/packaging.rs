//! What is in packaging/: that it names what there is, and as much of it as runs without an engine for
//! containers. The Debian package is built, installed and tried by `scripts/package.sh --check`.

mod support;
#[path = "support/gst.rs"]
mod support_gst;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use support::{Name, Running, unshare, within};
use support_gst::launch;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The services of the compose file, with those of their values that are one line.
fn services() -> BTreeMap<String, BTreeMap<String, String>> {
    let mut services: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut service = String::new();
    for line in read("packaging/compose.yaml").lines() {
        let depth = line.len() - line.trim_start().len();
        assert!(depth.is_multiple_of(2) && !line.contains('\t'), "{line}");
        match (depth, line.trim().split_once(':')) {
            (2, Some((name, ""))) => service = name.into(),
            (4 | 6, Some((key, value))) if !line.trim().starts_with('#') => {
                let values = services.entry(service.clone()).or_default();
                values.insert(key.into(), value.trim().into());
            }
            _ => {}
        }
    }
    services
}

#[test]
fn the_services_of_the_compose_file_send_frames_as_two_containers_would() {
    let services = services();
    let value = |service: &str, key: &str| services[service][key].as_str();
    assert_eq!(services.len(), 2, "{services:?}");
    assert_eq!(value("receiver", "ipc"), "shareable");
    assert_eq!(value("sender", "ipc"), "service:receiver");
    assert!(
        !services["sender"].contains_key("shm_size"),
        "it has the receiver's"
    );

    // All name spaces are their own but that of /dev/shm; and so are lock files and the network.
    const LOCKS: &str = "mkdir -p -m 1777 /tmp/zerobuffer \
                         && mount -t tmpfs -o mode=1777 tmpfs /tmp/zerobuffer && exec \"$@\"";
    let name = Name::new("compose");
    let registry = tempfile::tempdir().unwrap();
    let container = |service: &str, more: &str| {
        let line = value(service, "command")
            .strip_prefix("gst-launch-1.0 ")
            .unwrap();
        let line = line.replace("buffer-name=between", &format!("buffer-name={}", &*name));
        assert!(line.contains(&*name), "{line}");
        let inner = launch(registry.path(), &line.replace("is-live=true", more));
        let mut shell = Command::new("sh");
        shell.args(["-c", LOCKS, "sh"]);
        shell.arg(inner.get_program()).args(inner.get_args());
        for (key, value) in inner.get_envs() {
            shell.env(key, value.unwrap());
        }
        let flags = [
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--net",
            "--uts",
        ];
        Running::start(&mut within(&unshare(&flags), &shell))
    };
    let receiver = container("receiver", "");
    let sender = container("sender", "is-live=true num-buffers=30");
    sender.wait().expect_success();
    receiver.wait().expect_success();
}

#[test]
fn the_dockerfile_copies_what_the_crate_builds() {
    let (file, manifest) = (read("packaging/Dockerfile"), read("Cargo.toml"));
    let known = ["FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "CMD"];
    let text = file.replace("\\\n", "");
    for line in text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let word = line.split(' ').next().unwrap();
        assert!(known.contains(&word), "{line}");
    }
    for built in ["libgstzerobuffer.so", "zerobuffer"] {
        assert!(file.contains(&format!("COPY --from=build /build/target/release/{built} ")));
    }
    for (there, here) in [
        ("name = \"gstzerobuffer\"", "--lib"),
        ("name = \"zerobuffer\"", "--bin zerobuffer"),
    ] {
        assert!(manifest.contains(there) && file.contains(here), "{there}");
    }
    assert!(services()["receiver"]["dockerfile"] == "packaging/Dockerfile");
}

#[test]
fn the_version_is_the_same_wherever_it_stands() {
    let manifest = read("Cargo.toml");
    let version = manifest
        .lines()
        .find_map(|line| line.strip_prefix("version = "));
    let version = version.unwrap().trim_matches('"');
    let changes = read("CHANGELOG.md");
    let released = changes
        .lines()
        .find_map(|line| line.strip_prefix("## ["))
        .unwrap();
    // Either it is released, or its changes are still being collected.
    let is_told = released.starts_with(&format!("{version}]"))
        || released.starts_with("Unreleased]") && changes.contains(version);
    assert!(is_told, "{version} is not in CHANGELOG.md");
}
