//! Duplex channels with the published Python implementation at the other end, both ways.

#[path = "support/python.rs"]
mod python;
mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use gstzerobuffer::duplex::{DuplexClient, DuplexClientConfig, DuplexServer, DuplexServerConfig};
use gstzerobuffer::{Error, testing};
use nix::sys::signal::Signal;

use support::raw::{self, Raw};
use support::{LONG, Name, Running, example};

fn python_server(name: &Name, work: &str, options: &[&str]) -> Running {
    let mut command = python::script("zb_py_duplex_server.py");
    let mut server = Running::start(command.args([name, work]).args(options));
    assert_eq!(server.line().as_deref(), Some("ready"));
    server
}

fn python_client(name: &Name, requests: usize, sizes: &[usize], options: &[&str]) -> Command {
    let mut command = python::script("zb_py_duplex_client.py");
    let sizes: Vec<String> = sizes.iter().map(usize::to_string).collect();
    command.args([name, &*requests.to_string(), &sizes.join(",")]);
    command.args(options);
    command
}

fn client(name: &Name) -> DuplexClient {
    let client = DuplexClient::create(name, DuplexClientConfig::new(4096, 1 << 20)).unwrap();
    client.connect(LONG).unwrap();
    client
}

fn ask(client: &DuplexClient, request: &[u8]) -> Vec<u8> {
    let number = client.send_wait(request, LONG).unwrap();
    let answer = client.receive(LONG).unwrap();
    assert_eq!(answer.request(), number);
    answer.to_vec()
}

fn inverted(i: usize, size: usize) -> Vec<u8> {
    let data = testing::frame_data(size, i as u64);
    data.into_iter().map(|byte| !byte).collect()
}

/// A server that inverts, and what goes wrong with it.
fn rust_server(name: &Name, threads: usize, mutable: bool) -> (DuplexServer, Receiver<String>) {
    let (tell, errors) = channel();
    let tell = Mutex::new(tell);
    let config = DuplexServerConfig::new(4096, 200_000).with_threads(threads);
    let builder = DuplexServer::builder(name, config)
        .on_error(move |err| tell.lock().unwrap().send(err.to_string()).unwrap())
        .on_metadata(|metadata| metadata.map(|text| [&b"re: "[..], text].concat()));
    let server = match mutable {
        true => builder.start_mutable(|bytes| {
            bytes.iter_mut().for_each(|byte| *byte = !*byte);
            Ok(())
        }),
        false => builder.start(|request, reply| {
            let mut answer = reply.reserve(request.len() as u64)?;
            for (out, byte) in answer.iter_mut().zip(&request[..]) {
                *out = !byte;
            }
            Ok(answer)
        }),
    };
    (server.unwrap(), errors)
}

/// The lines of a client that got inverted frames.
fn assert_answers(out: &str, requests: usize, sizes: &[usize]) {
    let mut lines = out.lines();
    for i in 0..requests {
        let line: serde_json::Value = serde_json::from_str(lines.next().unwrap()).unwrap();
        let expected = inverted(i, sizes[i % sizes.len()]);
        assert_eq!(
            (&line["request"], &line["size"], &line["crc32"]),
            (
                &(i + 1).into(),
                &expected.len().into(),
                &crc32fast::hash(&expected).into()
            ),
        );
    }
    assert_eq!(lines.next(), None);
}

const SIZES: [usize; 8] = [1, 1000, 20_000, 33, 4096, 15, 17, 29_999];

#[test]
fn a_python_server_answers_a_rust_client_with_several_requests_under_way() {
    let _turn = python::turn();
    let name = Name::new("duplex-rust-python");
    let options = ["--payload", "200000", "--metadata", "its answers"];
    let mut server = python_server(&name, "invert", &options);
    let mut command = example("zb_duplex_client");
    let sizes: Vec<String> = SIZES.iter().map(usize::to_string).collect();
    command.args([&name, "2000", &sizes.join(","), "4", "about it"]);
    let asked = Running::start(command.args(["1024", "150000"]));
    assert_answers(&asked.wait().expect_success().out, 2000, &SIZES);
    assert_eq!(server.line().as_deref(), Some("metadata about it"));
    server.wait().expect_success();
    name.remove_what_python_leaves();
}

#[test]
fn a_rust_server_answers_python_clients_one_after_another() {
    let _turn = python::turn();
    let name = Name::new("duplex-python-rust");
    for (threads, mutable) in [(1, false), (1, true), (3, false), (3, true)] {
        let (server, errors) = rust_server(&name, threads, mutable);
        for options in [&["4", "about it", "--in-place"][..], &["1", "-"]] {
            let mut command = python_client(&name, 1000, &SIZES, options);
            let asked = Running::start(&mut command).wait().expect_success();
            assert_answers(&asked.out, 1000, &SIZES);
        }
        server.stop();
        assert_eq!(server.stats().answers, 2000);
        assert_eq!(errors.try_iter().collect::<Vec<_>>(), [""; 0]);
        name.remove_what_python_leaves();
    }
}

#[test]
fn a_python_handler_that_raises_costs_a_rust_client_that_one_answer() {
    let _turn = python::turn();
    let name = Name::new("duplex-python-raises");
    let mut server = python_server(&name, "fail-3", &["--metadata", "its answers"]);
    let client = client(&name);
    assert_eq!(ask(&client, b"one"), b"one");
    assert_eq!(
        client.metadata().unwrap().as_deref(),
        Some(&b"its answers"[..])
    );
    assert_eq!(ask(&client, b"two"), b"two");
    assert_eq!(client.send(b"three").unwrap(), 3);
    let end = client.receive(LONG).unwrap_err();
    assert!(
        matches!(end, Error::OutOfStep { first, last: 3, answers, .. } if first + answers == 3),
        "{end}"
    );
    assert_eq!(server.line().as_deref(), Some("error ValueError"));
    for i in 4..50 {
        let data = testing::frame_data(100, i);
        assert_eq!(client.send(&data).unwrap(), i);
        let answer = client.receive(LONG).unwrap();
        assert_eq!((answer.request(), &answer[..]), (i, &data[..]));
    }
    server.wait().expect_success();
    drop(client);
    name.remove_what_python_leaves();
}

#[test]
fn a_python_server_that_gives_up_on_a_full_ring_is_out_of_step_and_noticed() {
    let _turn = python::turn();
    let name = Name::new("duplex-python-full");
    let mut server = python_server(&name, "twice", &["--write-timeout", "0.2"]);
    let client = DuplexClient::create(&name, DuplexClientConfig::new(1024, 10_240)).unwrap();
    client.connect(LONG).unwrap();
    let content = |i: u64| testing::frame_data(4096, i);
    for i in 1..=2 {
        client.send(&content(i)).unwrap();
    }
    let first = client.receive(LONG).unwrap();
    assert_eq!(first[..], [content(1), content(1)].concat());
    // While this is held the second finds no room, and the package writes it never.
    assert_eq!(server.line().as_deref(), Some("error BufferFullException"));
    drop(first);
    let end = client.receive(LONG).unwrap_err();
    assert!(
        matches!(
            end,
            Error::OutOfStep {
                first: 1,
                last: 2,
                answers: 1,
                ..
            }
        ),
        "{end}"
    );
    assert_eq!(ask(&client, &content(3)), [content(3), content(3)].concat());
    server.wait().expect_success();
    drop(client);
    name.remove_what_python_leaves();
}

#[test]
fn a_rust_client_goes_on_with_the_next_python_server_and_with_a_rust_one() {
    let _turn = python::turn();
    let name = Name::new("duplex-python-killed");
    let mut server = python_server(&name, "echo", &[]);
    let client = DuplexClient::create(&name, DuplexClientConfig::new(4096, 1 << 20)).unwrap();
    for round in 0..3 {
        client.connect_with(b"pictures", LONG).unwrap();
        for i in 0..50 {
            let data = testing::frame_data(3000, i);
            assert_eq!(ask(&client, &data), data, "round {round}");
        }
        server.stop();
        client.send(b"never answered").unwrap();
        let pid = server.pid();
        server.kill();
        let end = client.receive(LONG).unwrap_err();
        assert!(
            matches!(end, Error::WriterDead { pid: dead, .. } if dead == pid),
            "{end}"
        );
        server = python_server(&name, "echo", &[]);
        // Or it may open the buffer of before and the semaphores of the next (fault 14).
        let answers = Raw::open(&format!("{}_response", &*name));
        while answers.get(raw::WRITER_PID) != server.pid() {
            thread::yield_now();
        }
    }
    client.connect(LONG).unwrap();
    assert_eq!(ask(&client, b"the last"), b"the last");
    server.wait().expect_success();
    let end = client.receive(LONG).unwrap_err();
    assert!(end.is_peer_gone(), "{end}");
    let (rust, errors) = rust_server(&name, 1, false);
    client.connect(LONG).unwrap();
    assert_eq!(ask(&client, &[1, 2, 3]), [254, 253, 252]);
    drop((client, rust));
    assert!(errors.try_recv().is_err());
    name.assert_nothing_left();
}

#[test]
fn a_rust_client_waits_for_a_stopped_python_server() {
    let _turn = python::turn();
    let name = Name::new("duplex-python-stopped");
    let server = python_server(&name, "echo", &[]);
    let client = client(&name);
    assert_eq!(ask(&client, b"first"), b"first");
    server.stop();
    assert_eq!(client.send(b"second").unwrap(), 2);
    let late = client.receive(Duration::from_millis(100));
    assert!(matches!(late, Err(Error::Timeout { .. })), "{late:?}");
    assert!(client.is_server_connected(), "stopped is not dead");
    server.signal(Signal::SIGCONT);
    let answer = client.receive(LONG).unwrap();
    assert_eq!((answer.request(), &answer[..]), (2, &b"second"[..]));
    drop(answer);
    server.wait().expect_success();
    drop(client);
    name.remove_what_python_leaves();
}

#[test]
fn a_rust_server_goes_on_with_the_next_client_when_a_python_one_was_killed() {
    let _turn = python::turn();
    let name = Name::new("duplex-python-client-killed");
    let (server, errors) = rust_server(&name, 2, false);
    for _ in 0..3 {
        let options = ["3", "about it", "--hold"];
        let mut command = python_client(&name, usize::MAX >> 1, &SIZES, &options);
        let mut asking = Running::start(&mut command);
        for _ in 0..200 {
            assert!(asking.line().unwrap().starts_with("{\"request\":"));
        }
        let pid = asking.pid();
        asking.kill();
        // Perhaps of both buffers.
        while !errors
            .recv()
            .unwrap()
            .contains(&format!("(pid {pid}) died"))
        {}
    }
    let mut command = python_client(&name, 300, &SIZES, &["4", "-"]);
    let asked = Running::start(&mut command).wait().expect_success();
    assert_answers(&asked.out, 300, &SIZES);
    assert!(server.is_running());
    assert_eq!(server.stats().clients, 4);
    drop(server);
    for err in errors {
        assert!(err.contains(" died"), "{err}");
    }
    name.remove_what_python_leaves();
}

#[test]
fn a_python_client_is_told_that_a_rust_server_was_stopped_or_killed() {
    let _turn = python::turn();
    let name = Name::new("duplex-rust-killed");
    for kill in [false, true] {
        let mut command = example("zb_duplex_server");
        let mut server = Running::start(command.args([&name, "invert", "4096", "200000"]));
        assert_eq!(server.line().as_deref(), Some("ready"));
        let options = ["3", "-", "--timeout", "5", "--hold"];
        let mut command = python_client(&name, usize::MAX >> 1, &SIZES, &options);
        let mut asking = Running::start(&mut command);
        for _ in 0..100 {
            assert!(asking.line().unwrap().starts_with("{\"request\":"));
        }
        if kill {
            server.kill();
        } else {
            server.wait().expect_success();
        }
        let ended = asking.wait();
        assert_eq!(ended.status.code(), Some(1));
        let told = ["WriterDeadException", "ReaderDeadException"];
        assert!(
            told.iter().any(|told| ended.err.contains(told)),
            "{ended:?}"
        );
    }
    // What the killed one left is no hindrance to the next.
    let (server, _errors) = rust_server(&name, 1, true);
    let mut command = python_client(&name, 10, &SIZES, &["1", "-"]);
    let asked = Running::start(&mut command).wait().expect_success();
    assert_answers(&asked.out, 10, &SIZES);
    drop(server);
    name.remove_what_python_leaves();
}

#[test]
fn the_python_worker_of_the_examples_serves_any_client() {
    let _turn = python::turn();
    let name = Name::new("duplex-example-worker");
    let mut command = python::example("duplex_worker.py");
    let worker = Running::start(command.args([&*name, "200000"]));
    // The client is not as patient as Python may take to start.
    while inode(&name).is_none() {
        thread::yield_now();
    }
    let mut command = example("zb_duplex_client");
    command.args([&name, "300", "30000,1,4096", "3", "-", "1024", "150000"]);
    let mut asked = Running::start(&mut command);
    let line = asked.line().unwrap();
    let first = inode(&name);
    let asked = asked.wait().expect_success();
    assert_answers(&(line + "\n" + &asked.out), 300, &[30_000, 1, 4096]);
    // It makes a new buffer for the next one when it has noticed that this one has left.
    while inode(&name).is_none_or(|new| Some(new) == first) {
        thread::yield_now();
    }
    // While it does so, it may take the buffer of a client that tries too early for that of the
    // next try (fault 14): then there is no answer, and it starts over.
    let ask = || {
        let mut command = python::example("duplex_client.py");
        let asked = Running::start(command.args([&*name, "4", "40", "30"]));
        Some(asked.wait()).filter(|ended| ended.status.success())
    };
    let asked = (0..5).find_map(|_| ask()).expect("no client was served");
    assert_eq!(asked.out, bars(4, 40, 30));
    worker.signal(Signal::SIGINT);
    let ended = worker.wait().expect_success();
    // It says when a client has left, as the package does, and nothing else.
    let left = ["WriterDeadException", "ReaderDeadException"];
    assert!(
        (ended.err.lines()).all(|line| left.iter().any(|left| line.contains(left))),
        "{ended:?}"
    );
    name.remove_what_python_leaves();
}

#[test]
fn the_python_client_of_the_examples_finds_a_rust_worker() {
    let _turn = python::turn();
    let name = Name::new("duplex-example-client");
    let mut command = example("zb_duplex_server");
    let mut server = Running::start(command.args([&name, "invert-in-place", "4096", "200000"]));
    assert_eq!(server.line().as_deref(), Some("ready"));
    let mut command = python::example("duplex_client.py");
    let asked = Running::start(command.args([&*name, "10", "160", "90"]));
    assert_eq!(asked.wait().expect_success().out, bars(10, 160, 90));
    let ended = server.wait().expect_success();
    assert!(
        ended.out.contains(r#""requests":10,"answers":10"#),
        "{ended:?}"
    );
    name.remove_what_python_leaves();
}

/// Of the buffer of the requests.
fn inode(name: &Name) -> Option<u64> {
    let found = fs::metadata(format!("/dev/shm/{}_request", &**name)).ok();
    found.map(|found| found.ino())
}

/// What duplex_client.py prints when its pictures come back inverted: the bar is the darkest column.
fn bars(pictures: usize, width: usize, height: usize) -> String {
    let line = |i: usize| {
        let bar = i * width / pictures;
        let brightest = if bar == 0 { 1 } else { 0 };
        format!(
            "{}: {} bytes, {brightest} is brightest, {bar} darkest\n",
            i + 1,
            width * height * 3
        )
    };
    (0..pictures).map(line).collect()
}
