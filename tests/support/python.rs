//! The published Python packages `zerobuffer-ipc` and `rocket-welder-sdk`, in a virtual environment of
//! our own.

#![allow(dead_code)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// What pip installs, from its default index, and nothing else: the SDK wants OpenCV with windows,
/// and a database client, none of which it imports.
const PACKAGES: [&str; 6] = [
    "zerobuffer-ipc==1.3.0",
    "posix-ipc==1.3.2",
    "numpy==2.2.6",
    "opencv-python-headless==4.12.0.88",
    "typing-extensions==4.16.0",
    "rocket-welder-sdk==3.3.0",
];

/// Without libatomic the package changes the free bytes by plain load and store, and loses updates.
const CHECK: &str = "import zerobuffer.oieb_view as view, sys\n\
    sys.exit(0 if view._libatomic is not None else 'libatomic.so.1 is missing')";

/// A Python reader that starts tries the lock of every buffer for a moment, whose reader may be
/// starting too, and removes what dead readers left. So tests that start one take turns.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A command that runs `tests/python/SCRIPT` with the package at hand.
pub fn script(script: &str) -> Command {
    run_file(Path::new("tests/python").join(script))
}

/// The same for `examples/python/SCRIPT`.
pub fn example(script: &str) -> Command {
    run_file(Path::new("examples/python").join(script))
}

fn run_file(path: PathBuf) -> Command {
    let mut command = Command::new(interpreter());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    // Isolated: whatever the user has in PYTHONPATH or installed is not what we test.
    command.args(["-I", "-u"]).arg(path);
    command
}

/// The Python interpreter of the environment, which is made if it is not there.
pub fn interpreter() -> &'static Path {
    static INTERPRETER: OnceLock<PathBuf> = OnceLock::new();
    INTERPRETER.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
        fs::create_dir_all(target).unwrap();
        // Test binaries may run at the same time; the lock goes with its holder, however that ends.
        let lock = File::create(target.join("zerobuffer-python.lock")).unwrap();
        lock.lock().unwrap();
        let folder = target.join("zerobuffer-python");
        let interpreter = folder.join("bin/python");
        let marker = folder.join("complete");
        let wanted = PACKAGES.join("\n");
        let complete = fs::read_to_string(&marker).is_ok_and(|made| made == wanted);
        if !complete || run(Command::new(&interpreter).args(["-I", "-c", "pass"])).is_err() {
            make(&folder, &interpreter);
            // Last: without it the next run starts over.
            fs::write(&marker, wanted).unwrap();
        }
        if let Err(why) = run(Command::new(&interpreter).args(["-I", "-c", CHECK])) {
            panic!(
                "the Python package zerobuffer-ipc does not work here: {why}\n\
                 It needs libatomic.so.1 (Debian and Ubuntu: apt install libatomic1)."
            );
        }
        interpreter
    })
}

fn make(folder: &Path, interpreter: &Path) {
    if folder.exists() {
        fs::remove_dir_all(folder).unwrap();
    }
    if let Err(why) = run(Command::new("python3").args(["-m", "venv"]).arg(folder)) {
        panic!(
            "python3 cannot make a virtual environment: {why}\n\
             The tests against the Python implementation need Python 3.10 or later with venv and pip \
             (Debian and Ubuntu: apt install python3 python3-venv)."
        );
    }
    let install = ["-m", "pip", "install", "--quiet", "--no-input", "--no-deps"];
    if let Err(why) = run(Command::new(interpreter).args(install).args(PACKAGES)) {
        panic!(
            "pip cannot install {PACKAGES:?}: {why}\n\
             The tests against the Python implementation need the Python Package Index or a mirror \
             that pip is configured for, and where posix-ipc has no wheel a C compiler and the \
             Python headers (Debian and Ubuntu: apt install gcc python3-dev)."
        );
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command
        .output()
        .map_err(|err| format!("{:?}: {err}", command.get_program()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}
