//! What holds for every buffer that this process could make or attach to.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use gstzerobuffer::inspect::{FOLDERS, host};

use super::Findings;
use crate::text;

/// What a reader takes unless it is told otherwise.
const USUAL_RING: u64 = 32 << 20;
/// What a reader needs of descriptors, with some for its application.
const FEW_FILES: u64 = 64;

pub fn look(findings: &mut Findings) {
    let [shared, locks] = FOLDERS;
    shared_memory(findings, Path::new(shared));
    lock_folder(findings, Path::new(locks));
    namespaces(findings);
    library(findings, Path::new(shared));
    limits(findings);
    kernel(findings);
}

/// Whether everybody may make files in a folder, and nobody remove those of others.
fn is_for_everybody(path: &Path) -> Result<bool, String> {
    let meta = fs::symlink_metadata(path).map_err(|err| err.to_string())?;
    if !meta.is_dir() {
        return Err("it is not a folder".into());
    }
    Ok(meta.mode() & 0o1777 == 0o1777)
}

fn shared_memory(findings: &mut Findings, path: &Path) {
    const ABOUT: &str = "shared memory";
    let shown = path.display();
    match is_for_everybody(path) {
        Err(why) => {
            let remedy = "mount it: mount -t tmpfs -o mode=1777 tmpfs /dev/shm";
            findings.problem(ABOUT, format!("{shown}: {why}"), remedy);
            return;
        }
        Ok(_) if !host::may_use(path) => {
            let what = format!("{shown} may not be used by {}", text::user(host::user()));
            findings.problem(ABOUT, what, "as root: chmod 1777 /dev/shm");
            return;
        }
        Ok(false) => {
            let what = format!("{shown} is not for every user (its mode should be 1777)");
            findings.note(ABOUT, what, "as root: chmod 1777 /dev/shm");
        }
        Ok(true) => {}
    }
    let room = match host::Room::of(path) {
        Ok(room) => room,
        Err(err) => {
            findings.problem(ABOUT, format!("{shown}: {err}"), "");
            return;
        }
    };
    let what = format!(
        "{} of {} free in {shown}",
        text::bytes(room.available),
        text::bytes(room.total)
    );
    let larger = "make it larger: docker run --shm-size=1g, or as root: mount -o \
                  remount,size=2g /dev/shm; or give back what is left (zerobuffer clean)";
    if room.available < USUAL_RING || room.files < 8 {
        findings.problem(
            ABOUT,
            format!("{what}, and a ring begins with {}", text::bytes(USUAL_RING)),
            larger,
        );
    } else if room.available < 4 * USUAL_RING {
        findings.note(ABOUT, format!("{what}, which is little for video"), larger);
    } else {
        findings.fine(ABOUT, what);
    }
}

fn lock_folder(findings: &mut Findings, path: &Path) {
    const ABOUT: &str = "lock folder";
    let shown = path.display();
    let remedy = format!("as root: chown root {shown} && chmod 1777 {shown}");
    let without = "v1 readers cannot make buffers here, and ours do without a lock file";
    if !path.exists() {
        let parent = path.parent().unwrap_or(path);
        if host::may_use(parent) {
            findings.fine(ABOUT, format!("{shown} is made by the first reader"));
        } else {
            let what = format!("{shown} cannot be made in {}: {without}", parent.display());
            findings.problem(ABOUT, what, "as root: chmod 1777 /tmp");
        }
        return;
    }
    match is_for_everybody(path) {
        Err(why) => findings.problem(
            ABOUT,
            format!("{shown}: {why}: {without}"),
            &format!("remove what is there: rm {shown}"),
        ),
        Ok(_) if !host::may_use(path) => {
            let user = text::user(host::user());
            let what = format!("{shown} may not be used by {user}: {without}");
            findings.problem(ABOUT, what, &remedy);
        }
        // The published readers make it less the umask.
        Ok(false) => {
            let what = format!("{shown} is not for every user: others can have no lock files");
            findings.note(ABOUT, what, &remedy);
        }
        Ok(true) => findings.fine(ABOUT, format!("{shown} is for every user")),
    }
}

fn namespaces(findings: &mut Findings) {
    const ABOUT: &str = "namespaces";
    if host::sees_all_processes() {
        findings.fine(ABOUT, "every process of the machine is to be seen".into());
    } else {
        findings.note(
            ABOUT,
            "this pid namespace is not the machine's: the pids of peers in others say nothing here; \
             between two ends of this library locks tell who lives, a v1 peer outside counts as alive"
                .into(),
            "with v1 peers, share the pid namespace too: docker run --pid=container:OTHER",
        );
    }
    let differs = |kind| {
        let (ours, first) = (host::namespace("self", kind), host::namespace("1", kind));
        ours.is_some() && first.is_some() && ours != first
    };
    if differs("mnt") || differs("ipc") {
        findings.note(
            ABOUT,
            "this process has another mount or ipc namespace than process 1: its /dev/shm may be \
             another one"
                .into(),
            "both ends need the same /dev/shm: docker run --ipc=host, --ipc=container:OTHER, or -v \
             /dev/shm:/dev/shm at both; and the same /tmp/zerobuffer with v1 peers",
        );
    }
}

fn library(findings: &mut Findings, shared: &Path) {
    const ABOUT: &str = "C library";
    let ours = host::c_library();
    if !ours.starts_with("glibc") {
        findings.problem(
            ABOUT,
            format!("{ours}: its semaphores are not those of glibc, and others use those"),
            "use a build for *-linux-gnu",
        );
        return;
    }
    // musl has /dev/shm/sem-w-NAME where glibc has /dev/shm/sem.sem-w-NAME.
    let others = fs::read_dir(shared).into_iter().flatten().flatten();
    let other = others
        .filter_map(|entry| entry.file_name().into_string().ok())
        .find(|name| name.starts_with("sem-w-"));
    match other {
        Some(name) => findings.problem(
            ABOUT,
            format!("a semaphore of another C library (musl?) is there: {name}"),
            "both ends need glibc: a process in an Alpine container cannot share semaphores with \
             one outside; take a glibc image for it",
        ),
        None => findings.fine(ABOUT, ours),
    }
}

fn limits(findings: &mut Findings) {
    const ABOUT: &str = "limits";
    let before = findings.0.len();
    let mut check = |limit: std::io::Result<host::Limit>, least, what: &str, remedy: &str| {
        if let Ok(limit) = limit
            && limit.soft < least
        {
            findings.problem(ABOUT, format!("{what} {}", limit.soft), remedy);
        }
    };
    check(
        host::open_files(),
        FEW_FILES,
        "open files (RLIMIT_NOFILE):",
        "ulimit -n 1024, or LimitNOFILE= of the service",
    );
    check(
        host::file_size(),
        2 * USUAL_RING,
        "bytes of a file, which a ring is (RLIMIT_FSIZE):",
        "ulimit -f unlimited, or LimitFSIZE=infinity of the service",
    );
    check(
        host::address_space(),
        16 * USUAL_RING,
        "bytes of address space (RLIMIT_AS):",
        "ulimit -v unlimited: rings are mapped more than once",
    );
    if findings.0.len() == before {
        let shown = |limit: std::io::Result<host::Limit>| match limit {
            Ok(limit) if limit.soft == u64::MAX => "any number of".to_string(),
            Ok(limit) => limit.soft.to_string(),
            Err(_) => "?".to_string(),
        };
        let locked = match host::locked_memory() {
            Ok(limit) if limit.soft == u64::MAX => "no limit".to_string(),
            Ok(limit) => text::bytes(limit.soft),
            Err(_) => "?".to_string(),
        };
        let files = shown(host::open_files());
        findings.fine(
            ABOUT,
            format!("{files} open files; locked memory, for those who call mlockall(): {locked}"),
        );
    }
}

fn kernel(findings: &mut Findings) {
    const ABOUT: &str = "kernel";
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    if let Some(instances @ 0..16) = number("/proc/sys/fs/inotify/max_user_instances") {
        findings.note(
            ABOUT,
            format!("{instances} inotify instances a user: a process that gets none believes every new writer"),
            "as root: sysctl fs.inotify.max_user_instances=128",
        );
    }
    // "max" is no number.
    if let Some(most) = number("/sys/fs/cgroup/memory.max")
        && most < 8 * USUAL_RING
    {
        findings.note(
            ABOUT,
            format!(
                "this container has {} of memory, and rings count",
                text::bytes(most)
            ),
            "docker run --memory=…, or MemoryMax= of the service",
        );
    }
}
