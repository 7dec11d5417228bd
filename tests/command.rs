//! The command `zerobuffer`, as a process of its own, beside real streams.

#[path = "command/clean.rs"]
mod clean;
#[path = "command/doctor.rs"]
mod doctor;
#[path = "command/hostile.rs"]
mod hostile;
#[path = "command/list.rs"]
mod list;
#[path = "command/peek.rs"]
mod peek;
#[path = "command/rest.rs"]
mod rest;
#[path = "command/top.rs"]
mod top;
#[path = "command/unchanged.rs"]
mod unchanged;

#[path = "support/gst.rs"]
mod gst;
#[path = "support/python.rs"]
mod python;
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_zerobuffer");

/// The command with these arguments.
fn zerobuffer(args: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(args);
    command
}

/// What it prints, with the exit status that is due.
#[track_caller]
fn output(command: &mut Command, status: i32) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(status), "{output:#?}");
    text(output)
}

fn text(output: Output) -> String {
    String::from_utf8(output.stdout).unwrap()
}

/// The same as JSON.
#[track_caller]
fn json(args: &[&str], status: i32) -> Value {
    serde_json::from_str(&output(&mut zerobuffer(args), status)).unwrap()
}

/// The buffer of this name in `list --json`.
#[track_caller]
fn listed(name: &str) -> Value {
    let list = json(&["list", "--json"], 0);
    let found = list
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["name"] == name);
    found
        .unwrap_or_else(|| panic!("{name} is not in {list:#}"))
        .clone()
}

/// Its row in `list` without a terminal, by the names of the columns.
#[track_caller]
fn row(name: &str) -> Vec<(String, String)> {
    let text = output(&mut zerobuffer(&["list"]), 0);
    let mut rows = text.lines().map(|line| line.split('\t').map(String::from));
    let columns = rows.next().unwrap();
    let row = rows.find(|row| row.clone().next().as_deref() == Some(name));
    let row = row.unwrap_or_else(|| panic!("{name} is not in {text}"));
    let row: Vec<(String, String)> = columns.zip(row).collect();
    assert_eq!(row.len(), 18);
    row
}

fn cell<'a>(row: &'a [(String, String)], column: &str) -> &'a str {
    let (_, cell) = row.iter().find(|(name, _)| name == column).unwrap();
    cell
}

/// The command where every user may run it.
struct ForAll {
    folder: tempfile::TempDir,
}

impl ForAll {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("zerobuffer");
        support::copy_program(Path::new(PROGRAM), &to);
        for path in [folder.path(), Path::new(&to)] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        ForAll { folder }
    }

    /// Run by a user who has no rights here. Only root can ask for that.
    fn as_nobody(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.folder.path().join("zerobuffer"));
        command.args(args);
        let wrapper = "setpriv --reuid 65534 --regid 65534 --clear-groups";
        let wrapper: Vec<&str> = wrapper.split(' ').collect();
        support::within(&wrapper, &command)
    }
}
