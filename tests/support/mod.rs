//! What the tests with buffers and processes share.

// Each test program uses its own part of this.
#![allow(dead_code)]

pub mod raw;
#[cfg(target_arch = "x86_64")]
pub mod steps;
pub mod v1;

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use gstzerobuffer::testing::unique_name;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, geteuid};

/// A wait that a test expects to end by an event: so long that no machine is too slow, and yet a
/// fault ends as a failure and not as a test that hangs.
pub const LONG: Duration = Duration::from_secs(120);

/// Where the objects of a buffer are seen.
const FOLDERS: [&str; 2] = ["/dev/shm", "/tmp/zerobuffer"];

/// A buffer name of one test. Make it first: it is dropped last, and then nothing may be left.
#[derive(Debug)]
pub struct Name(String);

impl Name {
    pub fn new(base: &str) -> Self {
        Name(unique_name(base))
    }

    /// One end of the duplex channel of this name.
    pub fn end(&self, end: &str) -> Self {
        Name(format!("{}_{end}", self.0))
    }

    /// The segment and the semaphores as files.
    pub fn raw(&self) -> raw::Raw {
        raw::Raw::open(&self.0)
    }

    pub fn lock_file(&self) -> PathBuf {
        Path::new("/tmp/zerobuffer").join(format!("{}.lock", self.0))
    }

    /// Everything on the system that has this name in its name.
    pub fn objects(&self) -> Vec<PathBuf> {
        objects(&self.0)
    }

    pub fn assert_nothing_left(&self) {
        assert_eq!(self.objects(), Vec::<PathBuf>::new(), "left behind");
    }

    /// A reader of the Python package leaves its semaphores when it closes (fault 15), and nothing
    /// else.
    pub fn remove_what_python_leaves(&self) {
        for path in self.objects() {
            assert!(path.to_string_lossy().contains("/sem.sem-"), "{path:?}");
            fs::remove_file(path).unwrap();
        }
    }
}

/// Everything on the system that has `name` in its name.
fn objects(name: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = FOLDERS
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains(name))
        .collect();
    found.sort();
    found
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let left = self.objects();
        for path in &left {
            let _ = fs::remove_file(path);
        }
        if !thread::panicking() {
            assert_eq!(left, Vec::<PathBuf>::new(), "left behind");
        }
    }
}

pub fn is_root() -> bool {
    geteuid().is_root()
}

/// Bytes that tell frames, positions and lengths apart.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    (0..len as u64)
        .map(|i| (i.wrapping_mul(31) ^ (i >> 8) ^ seed.wrapping_mul(97) ^ len as u64) as u8)
        .collect()
}

/// The example program `name`, which `cargo test` has built.
pub fn example(name: &str) -> Command {
    // The tests are in target/PROFILE/deps, the examples beside that.
    let test = env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let program = profile.join("examples").join(name);
    assert!(
        program.exists(),
        "{} is missing: `cargo test` builds it, with `--test` it takes `cargo build --examples`",
        program.display()
    );
    Command::new(program)
}

const ROLE: &str = "ZB_TEST_ROLE";

/// This test program again, to run `test` alone, which finds `role` in [`role`].
pub fn again(test: &str, role: &str) -> Command {
    again_as(&env::current_exe().unwrap(), test, role)
}

fn again_as(program: &Path, test: &str, role: &str) -> Command {
    let mut command = Command::new(program);
    command
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(ROLE, role);
    command
}

/// Set in a process that [`again`] started: the test is to do this part and return.
pub fn role() -> Option<String> {
    env::var(ROLE).ok()
}

/// In a child: one line for [`Running::hear`].
pub fn say(text: &str) {
    // The test runner's own output may stand in the same line.
    println!("\n@{text}");
}

/// In a child: waits until the parent calls [`Running::tell`], or is gone.
pub fn listen() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    line.trim().into()
}

/// `command` run by another program: `within(&["nice"], cp)` is `nice cp`.
pub fn within<S: AsRef<str>>(wrapper: &[S], command: &Command) -> Command {
    let mut outer = Command::new(wrapper[0].as_ref());
    outer
        .args(wrapper[1..].iter().map(AsRef::as_ref))
        .arg(command.get_program())
        .args(command.get_args());
    for (key, value) in command.get_envs() {
        outer.env(key, value.unwrap_or_default());
    }
    outer
}

/// How to run something in namespaces of its own, for [`within`]. Fails where that is forbidden: a
/// test that cannot run must not look as if it had passed.
pub fn unshare(flags: &[&str]) -> Vec<String> {
    let mut wrapper = vec!["unshare".to_string()];
    if !is_root() {
        wrapper.extend(["--user".into(), "--map-root-user".into()]);
    }
    wrapper.extend(flags.iter().map(|flag| flag.to_string()));
    let tried = Command::new(&wrapper[0])
        .args(&wrapper[1..])
        .arg("true")
        .output();
    let why = match tried {
        Ok(output) if output.status.success() => return wrapper,
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(err) => err.to_string(),
    };
    panic!(
        "this test needs `{}`, which is not possible here: {why}\n(util-linux has the program; in \
         Docker it takes --cap-add SYS_ADMIN --security-opt seccomp=unconfined; on Ubuntu users \
         other than root may need sysctl kernel.apparmor_restrict_unprivileged_userns=0)",
        wrapper.join(" ")
    );
}

/// `command` where no lock files can be made.
pub fn without_lock_folder(command: &Command) -> Command {
    let script = "mkdir -p -m 1777 /tmp/zerobuffer && \
                  mount -t tmpfs -o ro tmpfs /tmp/zerobuffer && exec \"$@\"";
    let mut wrapper = unshare(&["--mount"]);
    wrapper.extend(["sh", "-c", script, "sh"].map(Into::into));
    within(&wrapper, command)
}

/// Copies a program that is run then. Not by this process: what another test forks meanwhile would
/// have the copy open for writing until it is another program, and nobody could run it ("Text file
/// busy").
pub fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").args([from, to]).status().unwrap();
    assert!(copied.success(), "{copied}");
}

/// This test program again, run by a user who has no rights here. Only root can ask for that.
pub struct Nobody {
    folder: tempfile::TempDir,
}

impl Nobody {
    pub const UID: u32 = 65534;

    pub fn new() -> Self {
        // The build folder may be in a home that others cannot enter.
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let program = folder.path().join("test");
        copy_program(&env::current_exe().unwrap(), &program);
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Nobody { folder }
    }

    pub fn again(&self, test: &str, role: &str) -> Command {
        let uid = Self::UID.to_string();
        within(
            &[
                "setpriv",
                "--reuid",
                &uid,
                "--regid",
                &uid,
                "--clear-groups",
            ],
            &again_as(&self.folder.path().join("test"), test, role),
        )
    }
}

/// A child process that does not outlive its test.
pub struct Running {
    child: Child,
    out: BufReader<ChildStdout>,
    err: Option<ChildStderr>,
}

/// What a child left when it ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    /// What had not been read before.
    pub out: String,
    pub err: String,
}

impl Ended {
    #[track_caller]
    pub fn expect_success(self) -> Self {
        assert!(self.status.success(), "{self:#?}");
        self
    }
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|err| panic!("{command:?}: {err}"));
        let out = BufReader::new(child.stdout.take().unwrap());
        let err = child.stderr.take();
        Running { child, out, err }
    }

    pub fn pid(&self) -> u64 {
        self.child.id().into()
    }

    /// The next line of its output; `None` at the end.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let len = self.out.read_line(&mut line).unwrap();
        (len > 0).then(|| line.trim_end().into())
    }

    /// The next thing it [`say`]s.
    #[track_caller]
    pub fn hear(&mut self) -> String {
        loop {
            match self.line() {
                Some(line) => {
                    if let Some(said) = line.strip_prefix('@') {
                        return said.into();
                    }
                }
                None => panic!("the child ended: {:#?}", self.end()),
            }
        }
    }

    /// Ends its [`listen`].
    pub fn tell(&mut self, text: &str) {
        use std::io::Write;
        writeln!(self.child.stdin.as_mut().unwrap(), "{text}").unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.raw_pid(), signal).unwrap();
    }

    fn raw_pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// SIGSTOP, and back when it stands.
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        self.wait_until_stopped();
    }

    fn wait_until_stopped(&self) {
        let status = waitpid(self.raw_pid(), Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert!(matches!(status, WaitStatus::Stopped(..)), "{status:?}");
    }

    /// SIGKILL, and back when it is gone.
    pub fn kill(mut self) -> Ended {
        // Its input ends after it does, or it would end by itself.
        let _input = self.child.stdin.take();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.end()
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Ended {
        self.end()
    }

    fn end(&mut self) -> Ended {
        drop(self.child.stdin.take());
        let (mut out, mut err) = (String::new(), String::new());
        self.out.read_to_string(&mut out).unwrap();
        if let Some(mut pipe) = self.err.take() {
            pipe.read_to_string(&mut err).unwrap();
        }
        let status = self.child.wait().unwrap();
        Ended { status, out, err }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
