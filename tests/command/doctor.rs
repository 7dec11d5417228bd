//! `doctor`: each finding where it is due.

use std::path::Path;
use std::process::Command;

use gstzerobuffer::{BufferConfig, Reader, Writer};
use serde_json::Value;

use super::{ForAll, PROGRAM, output, zerobuffer};
use crate::support::raw::RawSem;
use crate::support::{Name, Running, copy_program, is_root, unshare, within};

fn findings(command: &mut Command) -> (i32, Vec<Value>) {
    let output = command.output().unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = json["findings"].as_array().unwrap().clone();
    let problems = findings.iter().filter(|it| it["weight"] == "problem");
    assert_eq!(json["problems"], problems.count());
    (output.status.code().unwrap(), findings)
}

fn weight<'a>(findings: &'a [Value], about: &str) -> &'a str {
    let finding = findings.iter().find(|it| it["about"] == about);
    let finding = finding.unwrap_or_else(|| panic!("nothing about {about}: {findings:#?}"));
    finding["weight"].as_str().unwrap()
}

/// What a shell prints in a mount namespace of its own.
fn in_mounts(shell: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", shell]);
    within(&unshare(&["--mount"]), &command)
}

#[test]
fn a_machine_as_it_should_be_has_no_problem() {
    let (status, findings) = findings(&mut in_mounts(&format!(
        "mkdir -p -m 1777 /tmp/zerobuffer && mount -t tmpfs -o mode=1777,size=1g tmpfs /dev/shm && \
         mount -t tmpfs -o mode=1777 tmpfs /tmp/zerobuffer && \
         ulimit -n 512; exec {PROGRAM} doctor --json"
    )));
    assert_eq!(status, 0, "{findings:#?}");
    for about in [
        "shared memory",
        "lock folder",
        "C library",
        "limits",
        "leftovers",
    ] {
        assert_ne!(weight(&findings, about), "problem");
    }
    assert_eq!(weight(&findings, "shared memory"), "ok");
    assert_eq!(weight(&findings, "leftovers"), "ok");
    // It has other mounts than process 1.
    assert!(findings.iter().any(|it| it["about"] == "namespaces"));
}

#[test]
fn each_problem_of_a_machine_is_told_with_its_remedy() {
    for (setup, about, remedy) in [
        (
            "mount -t tmpfs -o mode=1777,size=4m tmpfs /dev/shm",
            "shared memory",
            "--shm-size",
        ),
        ("ulimit -n 20", "limits", "ulimit -n"),
        ("ulimit -f 1000", "limits", "ulimit -f"),
        (
            "mount -t tmpfs -o mode=1777 tmpfs /tmp && touch /tmp/zerobuffer",
            "lock folder",
            "rm /tmp/zerobuffer",
        ),
        (
            "mount -t tmpfs -o mode=1777,size=1g tmpfs /dev/shm && touch /dev/shm/sem-w-cam",
            "C library",
            "glibc",
        ),
    ] {
        let (status, findings) = findings(&mut in_mounts(&format!(
            "exec 9<{PROGRAM}; {setup}; exec /proc/self/fd/9 doctor --json"
        )));
        assert_eq!(status, 1, "{setup}");
        let found = findings
            .iter()
            .find(|it| it["about"] == about && it["weight"] == "problem");
        let found = found.unwrap_or_else(|| panic!("{setup}: {findings:#?}"));
        assert!(
            found["remedy"].as_str().unwrap().contains(remedy),
            "{found}"
        );
    }
}

#[test]
fn a_buffer_that_is_fine_has_no_problem_and_its_ends_are_told() {
    let name = Name::new("doctor-fine");
    let reader = Reader::create(&name, &BufferConfig::new(1024, 1 << 16)).unwrap();
    let (_, all) = findings(&mut zerobuffer(&["doctor", &name, "--json"]));
    for about in ["permissions", "reader", "writer"] {
        assert_eq!(weight(&all, about), "ok");
    }
    let writer = Writer::attach(&name).unwrap();
    let text = zerobuffer(&["doctor", &name]).output().unwrap().stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("another writer is refused"), "{text}");
    drop((writer, reader));
}

#[test]
fn a_buffer_that_is_not_there_or_somewhere_else_is_told() {
    let name = Name::new("doctor-missing");
    let text = output(&mut zerobuffer(&["doctor", &name]), 1);
    assert!(
        text.contains(&format!("there is none called {}", &*name)),
        "{text}"
    );
    assert!(text.contains("→ start its reader"), "{text}");
    // In a container with a /dev/shm of its own.
    let shell = format!(
        "mount -t tmpfs tmpfs /dev/shm && touch /dev/shm/{} && echo there && exec cat",
        &*name
    );
    let mut elsewhere = Running::start(&mut in_mounts(&shell));
    assert_eq!(elsewhere.line().as_deref(), Some("there"));
    let text = output(&mut zerobuffer(&["doctor", &name]), 1);
    assert!(text.contains("in a /dev/shm of its own"), "{text}");
    assert!(text.contains("--ipc=container:"), "{text}");
    elsewhere.wait().expect_success();
}

#[test]
fn a_semaphore_that_somebody_removed_is_told() {
    let name = Name::new("doctor-semaphore");
    let reader = Reader::create(&name, &BufferConfig::new(1024, 1 << 16)).unwrap();
    std::fs::remove_file(format!("/dev/shm/sem.sem-r-{}", &*name)).unwrap();
    let text = output(&mut zerobuffer(&["doctor", &name]), 1);
    assert!(text.contains("somebody removed it"), "{text}");
    drop(RawSem::create('r', &name, 0));
    drop(reader);
}

#[test]
fn another_user_learns_why_it_cannot_attach() {
    let name = Name::new("doctor-user");
    let reader = Reader::create(&name, &BufferConfig::new(1024, 1 << 16)).unwrap();
    let all = ForAll::new();
    let mut command = if is_root() {
        all.as_nobody(&["doctor", &name])
    } else {
        use std::os::unix::fs::PermissionsExt;
        let file = name.raw();
        file.file()
            .set_permissions(std::fs::Permissions::from_mode(0o000))
            .unwrap();
        zerobuffer(&["doctor", &name])
    };
    let text = output(&mut command, 1);
    assert!(text.contains("cannot attach to /dev/shm/"), "{text}");
    assert!(text.contains("perms=0666"), "{text}");
    drop(reader);
}

#[test]
fn shared_memory_that_this_user_may_not_look_into_is_told_by_all() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("zerobuffer");
    copy_program(Path::new(PROGRAM), &to);
    for path in [folder.path(), &to] {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    // The rights of root, where it is one, would let it look anyway.
    let drop = match is_root() {
        true => "setpriv --reuid 65534 --regid 65534 --clear-groups",
        false => "setpriv --bounding-set=-all --inh-caps=-all --no-new-privs",
    };
    let ask = |args: &str| {
        in_mounts(&format!(
            "mount -t tmpfs -o mode=0000 tmpfs /dev/shm && exec {drop} {} {args}",
            to.display()
        ))
        .output()
        .unwrap()
    };
    for args in [
        "list",
        "list --json",
        "top --once --interval 0.1",
        "clean",
        "clean -n",
    ] {
        let output = ask(args);
        assert_eq!(output.status.code(), Some(2), "{args}: {output:?}");
        assert!(output.stdout.is_empty(), "{args}: {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            said.contains("/dev/shm: Permission denied"),
            "{args}: {said}"
        );
        assert!(said.contains("zerobuffer doctor"), "{args}: {said}");
    }
    for args in ["doctor", "doctor cam"] {
        let output = ask(args);
        assert_eq!(output.status.code(), Some(1), "{args}: {output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(
            said.contains("problem  shared memory: /dev/shm may not be used"),
            "{said}"
        );
        assert!(said.contains("chmod 1777 /dev/shm"), "{said}");
    }
    // A reader there does not blame the other user that there is not.
    let output = ask("bench --seconds 0.01 --size 1000");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("no permission for /dev/shm of buffer"),
        "{said}"
    );
    assert!(said.contains("may make no files there"), "{said}");
}
