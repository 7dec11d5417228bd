//! Duplex channels between real processes: upstream's scenarios 14.1 to 14.10 by their numbers, the
//! death and standstill of either side, and requests and answers that do not match.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Barrier, Condvar, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use gstzerobuffer::duplex::{
    Answer, DuplexClient, DuplexClientConfig, DuplexServer, DuplexServerBuilder,
    DuplexServerConfig, DuplexServerStats, HandlerError, Reply,
};
use gstzerobuffer::{BufferConfig, Error, Frame, Interrupt, Reader, Wait, Writer, testing};
use nix::sys::signal::Signal;

use support::raw::{self, Raw};
use support::{LONG, Name, Running, again, example, pattern};

/// Counts what a thread allocates.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: all is done by the system's allocator; the counter neither allocates nor needs a drop.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as the caller vouches.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller vouches.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const METADATA: u64 = 4096;
const PAYLOAD: u64 = 1 << 20;

fn client(name: &str) -> DuplexClient {
    let client = DuplexClient::create(name, DuplexClientConfig::new(METADATA, PAYLOAD)).unwrap();
    client.connect(LONG).unwrap();
    client
}

/// A server whose errors come out of the channel.
fn server(name: &str, threads: usize) -> (DuplexServerBuilder, Receiver<Error>) {
    let (tell, errors) = channel();
    let config = DuplexServerConfig::new(METADATA, PAYLOAD).with_threads(threads);
    let tell = Mutex::new(tell);
    let builder = DuplexServer::builder(name, config).on_error(move |err| {
        // An Error cannot be cloned; its text and kind are what the tests look at.
        let _ = tell.lock().unwrap().send(copy_of(err));
    });
    (builder, errors)
}

fn copy_of(err: &Error) -> Error {
    match err {
        Error::Handler {
            name,
            request,
            source,
        } => Error::Handler {
            name: name.clone(),
            request: *request,
            source: source.to_string().into(),
        },
        Error::ReaderClosed { name } => Error::ReaderClosed { name: name.clone() },
        Error::ReaderDead { name, pid } => Error::ReaderDead {
            name: name.clone(),
            pid: *pid,
        },
        Error::WriterDead { name, pid } => Error::WriterDead {
            name: name.clone(),
            pid: *pid,
        },
        other => Error::InvalidConfig {
            why: other.to_string(),
        },
    }
}

fn echo(request: &Frame, reply: Reply) -> Result<Answer, HandlerError> {
    Ok(reply.copy(request)?)
}

fn invert(request: &Frame, reply: Reply) -> Result<Answer, HandlerError> {
    let mut answer = reply.reserve(request.len() as u64)?;
    for (out, byte) in answer.iter_mut().zip(&request[..]) {
        *out = !byte;
    }
    Ok(answer)
}

/// In a child: serves until the parent has heard enough.
fn serve<F>(name: &str, threads: usize, handler: F)
where
    F: Fn(&Frame, Reply<'_>) -> Result<Answer, HandlerError> + Send + Sync + 'static,
{
    let config = DuplexServerConfig::new(METADATA, PAYLOAD).with_threads(threads);
    let builder =
        DuplexServer::builder(name, config).on_error(|err| support::say(&err.to_string()));
    let server = builder.start(handler).unwrap();
    support::say("ready");
    support::listen();
    server.stop();
}

/// The child that does the other role of this test.
fn other(test: &str, name: &str) -> Running {
    Running::start(&mut again(test, name))
}

fn ready(test: &str, name: &str) -> Running {
    let mut child = other(test, name);
    assert_eq!(child.hear(), "ready");
    child
}

/// One request and its answer.
fn ask(client: &DuplexClient, request: &[u8]) -> Vec<u8> {
    let number = client.send_wait(request, LONG).unwrap();
    let answer = client.receive(LONG).unwrap();
    assert_eq!(answer.request(), number);
    answer.to_vec()
}

fn is_doubt(err: &Error, first: u64, last: u64, answers: u64) -> bool {
    matches!(err, Error::OutOfStep { first: a, last: b, answers: c, .. }
        if (*a, *b, *c) == (first, last, answers))
}

/// Waits until something is so that another process or thread is about to do.
fn until(done: impl Fn() -> bool) {
    while !done() {
        thread::yield_now();
    }
}

#[test]
fn scenario_14_01_basic_request_response() {
    if let Some(name) = support::role() {
        return serve(&name, 1, echo);
    }
    let name = Name::new("duplex-basic");
    let server = ready("scenario_14_01_basic_request_response", &name);
    let client = client(&name);
    for (i, size) in (1..).zip([1, 1024, 100 << 10, 33, 65_536]) {
        let number = client.send(&pattern(size, i)).unwrap();
        assert_eq!(number, i);
        let answer = client.receive(LONG).unwrap();
        assert_eq!((answer.request(), answer.len()), (i, size));
        assert!(answer[..] == pattern(size, i), "answer {i}");
    }
    assert_eq!(client.pending(), 0);
    assert!(client.is_server_connected());
    server.wait().expect_success();
    assert!(!client.is_server_connected());
}

#[test]
fn scenario_14_02_sequence_number_correlation() {
    const REQUESTS: u64 = 10;
    if let Some(name) = support::role() {
        // Each handler waits until that of the next request is done: they end in reverse order.
        let done = (Mutex::new(REQUESTS + 1), Condvar::new());
        return serve(&name, REQUESTS as usize, move |request, reply| {
            let number = reply.request();
            let mut answer = reply.reserve(request.len() as u64)?;
            let (last, told) = &done;
            let mut last = last.lock().unwrap();
            while *last != number + 1 {
                last = told.wait(last).unwrap();
            }
            *last = number;
            told.notify_all();
            answer.copy_from_slice(request);
            Ok(answer)
        });
    }
    let name = Name::new("duplex-sequence");
    let server = ready("scenario_14_02_sequence_number_correlation", &name);
    let client = client(&name);
    for i in 1..=REQUESTS {
        assert_eq!(client.send(&pattern(5000, i)).unwrap(), i);
    }
    for i in 1..=REQUESTS {
        let answer = client.receive(LONG).unwrap();
        assert_eq!(answer.request(), i);
        assert_eq!(answer[..], pattern(5000, i), "answer {i}");
    }
    assert_eq!(client.pending(), 0);
    server.wait().expect_success();
}

#[test]
fn scenario_14_03_concurrent_client_operations() {
    const THREADS: u64 = 5;
    const EACH: u64 = 20;
    if let Some(name) = support::role() {
        return serve(&name, 3, |request, reply| {
            // It works for a while, not always as long.
            thread::sleep(Duration::from_micros(reply.request() * 7919 % 5000));
            echo(request, reply)
        });
    }
    let name = Name::new("duplex-concurrent");
    let server = ready("scenario_14_03_concurrent_client_operations", &name);
    let client = client(&name);
    let start = Barrier::new(THREADS as usize);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (client, start) = (&client, &start);
            scope.spawn(move || {
                start.wait();
                let content = |i: u64| pattern(100 + (i * 37 % 900) as usize, thread * EACH + i);
                // Two at once, received in the other order.
                for i in (0..EACH).step_by(2) {
                    let numbers = [i, i + 1].map(|i| client.send_wait(&content(i), LONG).unwrap());
                    for (i, number) in [i + 1, i].into_iter().zip(numbers.into_iter().rev()) {
                        let answer = client.receive_for(number, LONG).unwrap();
                        assert_eq!(answer.request(), number);
                        assert_eq!(answer[..], content(i), "thread {thread}, request {i}");
                    }
                }
            });
        }
    });
    assert_eq!(client.pending(), 0);
    let more = client.receive(Wait::no());
    assert!(matches!(more, Err(Error::Timeout { .. })), "{more:?}");
    let last = ask(&client, b"last");
    assert_eq!(last, b"last");
    // Who asks again for an answer that was received has none to wait for.
    let again = client.receive_for(THREADS * EACH, LONG);
    assert!(
        matches!(again, Err(Error::UnknownRequest { request, .. }) if request == THREADS * EACH),
        "{again:?}"
    );
    server.wait().expect_success();
}

#[test]
fn scenario_14_04_server_processing_mode_single_thread() {
    const WORK: Duration = Duration::from_millis(100);
    let name = Name::new("duplex-single");
    let (builder, errors) = server(&name, 1);
    let busy = AtomicBool::new(false);
    let _server = builder
        .start(move |request, reply| {
            assert!(!busy.swap(true, Ordering::SeqCst), "two at once");
            thread::sleep(WORK);
            busy.store(false, Ordering::SeqCst);
            echo(request, reply)
        })
        .unwrap();
    let client = client(&name);
    let start = Instant::now();
    for i in 1..=3 {
        client.send(&pattern(100, i)).unwrap();
    }
    for i in 1..=3 {
        let answer = client.receive(LONG).unwrap();
        assert_eq!(answer.request(), i);
        assert_eq!(answer[..], pattern(100, i));
    }
    assert!(start.elapsed() >= 3 * WORK);
    assert!(errors.try_recv().is_err());
}

#[test]
fn scenario_14_05_mutable_and_immutable_server() {
    const WARM: u64 = 20;
    const MEASURED: u64 = 20;
    let names = [Name::new("duplex-mutable"), Name::new("duplex-immutable")];
    // What the serving thread allocates from one call of its handler to the next, all of the
    // reading and answering between them.
    let counts = [(); 2].map(|()| Arc::new(Mutex::new(Vec::with_capacity(100))));
    // All requests are there before the first is answered: a server that waits for one in vain makes
    // an Error of that now and then, with a name that it allocates.
    let gate = Arc::new(Mutex::new(()));
    let note = |counts: &Arc<Mutex<Vec<u64>>>| {
        let (counts, gate) = (counts.clone(), gate.clone());
        move || {
            drop(gate.lock().unwrap());
            counts.lock().unwrap().push(ALLOCATIONS.get());
        }
    };
    let (first, second) = (note(&counts[0]), note(&counts[1]));
    let mutable = server(&names[0], 1).0.start_mutable(move |bytes| {
        first();
        bytes.iter_mut().for_each(|byte| *byte ^= 0xff);
        Ok(())
    });
    let immutable = server(&names[1], 1).0.start(move |request, reply| {
        second();
        invert(request, reply)
    });
    let _servers = [mutable.unwrap(), immutable.unwrap()];
    for (name, counts) in names.iter().zip(&counts) {
        let client = client(name);
        let closed = gate.lock().unwrap();
        for i in 0..WARM + MEASURED {
            client.send_wait(&pattern(10 << 10, i), LONG).unwrap();
        }
        drop(closed);
        for i in 0..WARM + MEASURED {
            let request = pattern(10 << 10, i);
            let expected: Vec<u8> = request.iter().map(|byte| byte ^ 0xff).collect();
            assert_eq!(client.receive(LONG).unwrap()[..], expected, "request {i}");
        }
        let counts = counts.lock().unwrap();
        assert_eq!(counts.len() as u64, WARM + MEASURED);
        let (warm, last) = (counts[WARM as usize], counts.last().unwrap());
        assert_eq!(*last - warm, 0, "allocations to answer in place");
    }
}

#[test]
fn scenario_14_06_server_death_during_processing() {
    const TEST: &str = "scenario_14_06_server_death_during_processing";
    if let Some(name) = support::role() {
        return serve(&name, 1, |request, reply| {
            if request.len() > 1000 {
                support::say("at work");
                support::listen();
            }
            echo(request, reply)
        });
    }
    let name = Name::new("duplex-crash");
    let mut server = ready(TEST, &name);
    let client = client(&name);
    assert_eq!(ask(&client, b"before"), b"before");
    client.send_wait(&pattern(900_000, 1), LONG).unwrap();
    assert_eq!(server.hear(), "at work");
    let pid = server.pid();
    server.kill();
    let end = client.receive(LONG).unwrap_err();
    assert!(
        matches!(end, Error::WriterDead { pid: dead, .. } if dead == pid),
        "{end}"
    );
    assert!(end.is_peer_gone() && !client.is_server_connected());
    let again = client.send(b"nobody there").unwrap_err();
    assert!(matches!(again, Error::NotConnected { .. }), "{again}");
    // The next one is used without a new client, and what the first one left is no hindrance.
    let server = ready(TEST, &name);
    client.connect(LONG).unwrap();
    assert_eq!(ask(&client, b"after"), b"after");
    server.wait().expect_success();
}

#[test]
fn scenario_14_07_client_death_during_response_wait() {
    const TEST: &str = "scenario_14_07_client_death_during_response_wait";
    if let Some(name) = support::role() {
        let client = client(&name);
        client.send(b"slow").unwrap();
        let _ = client.receive(LONG);
        panic!("an answer");
    }
    let name = Name::new("duplex-client-crash");
    let (builder, errors) = server(&name, 1);
    let (told, begun) = channel();
    let told = Mutex::new(told);
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let opened = gate.clone();
    let server = builder
        .start(move |request, reply| {
            if request[..] == *b"slow" {
                told.lock().unwrap().send(()).unwrap();
                let open = opened.0.lock().unwrap();
                drop(opened.1.wait_while(open, |open| !*open).unwrap());
                // A writer looks at its reader every 50 ms.
                thread::sleep(Duration::from_millis(60));
            }
            echo(request, reply)
        })
        .unwrap();
    let child = other(TEST, &name);
    begun.recv().unwrap();
    let pid = child.pid();
    child.kill();
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    let err = errors.recv().unwrap();
    assert!(
        matches!(err, Error::ReaderDead { pid: dead, .. } if dead == pid),
        "{err}"
    );
    // And the end of the requests.
    let err = errors.recv().unwrap();
    assert!(
        matches!(err, Error::WriterDead { pid: dead, .. } if dead == pid),
        "{err}"
    );
    assert!(server.is_running());
    assert_eq!(ask(&client(&name), b"quick"), b"quick");
    assert_eq!(server.stats().clients, 2);
}

#[test]
fn scenario_14_08_buffer_full_on_response_channel() {
    let name = Name::new("duplex-full");
    let mut child =
        Running::start(example("zb_duplex_server").args([&*name, "twice", "1024", "10240"]));
    assert_eq!(child.line().as_deref(), Some("ready"));
    let client = DuplexClient::create(&name, DuplexClientConfig::new(1024, 10_240)).unwrap();
    client.connect(LONG).unwrap();
    let twice = |i: u64| [pattern(4096, i), pattern(4096, i)].concat();
    client.send(&pattern(4096, 1)).unwrap();
    client.send(&pattern(4096, 2)).unwrap();
    let first = client.receive(LONG).unwrap();
    // The ring has no room for the second while the first is held, and it stays so.
    let none = client.receive(Duration::from_millis(200));
    assert!(matches!(none, Err(Error::Timeout { .. })), "{none:?}");
    assert_eq!(first[..], twice(1));
    drop(first);
    let second = client.receive(LONG).unwrap();
    assert_eq!((second.request(), &second[..]), (2, &twice(2)[..]));
    drop(second);
    let ended = child.wait().expect_success();
    assert!(
        ended.out.contains(r#""requests":2,"answers":2"#),
        "{ended:?}"
    );
    assert_eq!(ended.err, "");
}

#[test]
fn scenario_14_09_zero_copy_client_operations() {
    if let Some(name) = support::role() {
        return serve(&name, 1, echo);
    }
    let name = Name::new("duplex-zerocopy");
    let server = ready("scenario_14_09_zero_copy_client_operations", &name);
    let client = client(&name);
    let mut allocated = 0;
    for i in 1..=40 {
        let before = ALLOCATIONS.get();
        let mut request = client.reserve(4096, LONG).unwrap();
        testing::fill_frame_data(&mut request, i);
        assert_eq!(request.commit().unwrap(), i);
        if i > 20 {
            allocated += ALLOCATIONS.get() - before;
        }
        let answer = client.receive(LONG).unwrap();
        let whole = testing::is_frame_data(&answer, i);
        assert_eq!((answer.request(), answer.len(), whole), (i, 4096, true));
    }
    assert_eq!(allocated, 0, "allocations to send");
    // One that is dropped leaves no trace.
    drop(client.reserve(100, LONG).unwrap());
    assert_eq!(ask(&client, b"next"), b"next");
    server.wait().expect_success();
}

#[test]
fn scenario_14_10_channel_cleanup_on_dispose() {
    let name = Name::new("duplex-cleanup");
    let (builder, errors) = server(&name, 1);
    let this = Arc::new(OnceLock::<Arc<DuplexServer>>::new());
    let (stopped, gate) = (this.clone(), Arc::new(Barrier::new(2)));
    let wait = gate.clone();
    let made = builder.start(move |request, reply| {
        if reply.request() == 4 {
            wait.wait();
            // From a handler it only sets the mark: this answer is the last.
            stopped.get().unwrap().stop();
        }
        echo(request, reply)
    });
    this.set(Arc::new(made.unwrap())).unwrap();
    let server = this.get().unwrap().clone();
    let client = client(&name);
    for i in 1..=5 {
        client.send(&pattern(1000, i)).unwrap();
    }
    for i in 1..=3 {
        assert_eq!(client.receive(LONG).unwrap().request(), i);
    }
    gate.wait();
    assert_eq!(client.receive(LONG).unwrap().request(), 4);
    // Then the client finds both buffers closed, whichever it looks at first.
    server.wait();
    let end = client.receive(LONG).unwrap_err();
    assert!(matches!(end, Error::WriterClosed { .. }), "{end}");
    assert!(!server.is_running());
    assert!(errors.try_recv().is_err(), "to stop is no error");
    let stats = DuplexServerStats {
        clients: 1,
        requests: 4,
        answers: 4,
        ..DuplexServerStats::default()
    };
    assert_eq!(server.stats(), stats);
    let left = |name: &Name| name.objects().into_iter().map(|path| file_name(&path));
    assert!(left(&name).all(|file| file.contains("_response")));

    // A new server gets the name; a new client too, once the first one is gone.
    let _second = self::server(&name, 1).0.start(invert).unwrap();
    client.connect(LONG).unwrap();
    assert_eq!(ask(&client, &[0x0f]), [0xf0]);
    drop(client);
    until(|| left(&name).all(|file| file.contains("_request")));
    assert_eq!(ask(&self::client(&name), &[0xf0]), [0x0f]);
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into()
}

#[test]
fn thousands_of_requests_of_changing_size_are_answered_in_order_by_a_pool() {
    let name = Name::new("duplex-thousands");
    let sizes = [1, 1000, 40_000, 33, 4096, 70_000, 15, 16, 17, 29_999];
    for (work, threads) in [("invert", 1), ("invert", 4), ("invert-in-place", 4)] {
        let mut child = Running::start(example("zb_duplex_server").args([
            &*name,
            work,
            "4096",
            "400000",
            &threads.to_string(),
        ]));
        assert_eq!(child.line().as_deref(), Some("ready"));
        let list: Vec<String> = sizes.iter().map(usize::to_string).collect();
        let asked = Running::start(example("zb_duplex_client").args([
            &*name,
            "3000",
            &list.join(","),
            "5",
            "about it",
            "1024",
            "300000",
        ]));
        let asked = asked.wait().expect_success();
        let mut lines = asked.out.lines();
        for i in 0..3000 {
            let line: serde_json::Value = serde_json::from_str(lines.next().unwrap()).unwrap();
            let mut data = testing::frame_data(sizes[i % sizes.len()], i as u64);
            data.iter_mut().for_each(|byte| *byte = !*byte);
            assert_eq!(
                (&line["request"], &line["size"], &line["crc32"]),
                (
                    &(i + 1).into(),
                    &data.len().into(),
                    &crc32fast::hash(&data).into()
                ),
                "{work} by {threads}"
            );
        }
        assert_eq!(lines.next(), None);
        let ended = child.wait().expect_success();
        assert!(ended.out.contains(r#""requests":3000,"answers":3000"#));
        name.assert_nothing_left();
    }
}

#[test]
fn answers_of_any_size_find_room_in_a_pool_whatever_those_behind_them_have_taken() {
    let name = Name::new("duplex-crowd");
    let (builder, errors) = server(&name, 6);
    // Sizes from 1 to a third of the ring, so that small ones lie in the way of large ones.
    let size = |number: u64| 1 + (number.wrapping_mul(6364136223846793005) >> 33) % 3000;
    let server = builder
        .start(move |request, reply| {
            let number = reply.request();
            let mut answer = reply.reserve(size(number))?;
            answer.fill(number as u8);
            // The later ones are often done first.
            if number % 3 == 0 {
                thread::sleep(Duration::from_micros(number * 7919 % 700));
            }
            assert_eq!(request[..], number.to_le_bytes());
            Ok(answer)
        })
        .unwrap();
    let config = DuplexClientConfig::new(1024, 9_216).with_in_flight(8);
    let client = DuplexClient::create(&name, config).unwrap();
    client.connect(LONG).unwrap();
    const REQUESTS: u64 = 3000;
    let mut sent = 0;
    for received in 1..=REQUESTS {
        while sent < REQUESTS && client.pending() < 8 {
            sent = client.send_wait(&(sent + 1).to_le_bytes(), LONG).unwrap();
        }
        let answer = client.receive(LONG).unwrap();
        assert_eq!(answer.request(), received);
        assert_eq!(answer.len() as u64, size(received));
        assert!(answer.iter().all(|byte| *byte == received as u8));
    }
    server.stop();
    assert_eq!(server.stats().answers, REQUESTS);
    assert!(errors.try_recv().is_err());
}

#[test]
fn a_server_killed_again_and_again_costs_no_client_its_step() {
    const TEST: &str = "a_server_killed_again_and_again_costs_no_client_its_step";
    if let Some(name) = support::role() {
        return serve(&name, 2, invert);
    }
    let name = Name::new("duplex-kill-server");
    let client = DuplexClient::create(&name, DuplexClientConfig::new(1024, 50_000)).unwrap();
    for round in 0..8 {
        let mut child = Some(ready(TEST, &name));
        client.connect(LONG).unwrap();
        let (mut sent, mut received) = (0, 0);
        let end = loop {
            while sent < received + 4 {
                match client.send_wait(&pattern(3000, sent + 1), LONG) {
                    Ok(number) => sent = number,
                    Err(err) => {
                        assert!(err.is_peer_gone(), "{err}");
                        break;
                    }
                }
            }
            let answer = match client.receive(LONG) {
                Ok(answer) => answer,
                Err(err) => break err,
            };
            received += 1;
            assert_eq!(answer.request(), received, "round {round}");
            let expected: Vec<u8> = pattern(3000, received).iter().map(|b| !b).collect();
            assert_eq!(answer[..], expected, "round {round}, request {received}");
            if received == 50 + round * 13 {
                child.take().unwrap().kill();
            }
        };
        assert!(end.is_peer_gone(), "round {round}: {end}");
        assert!(child.is_none());
    }
    // What the last one left.
    drop(ready(TEST, &name).wait().expect_success());
    drop(client);
    name.assert_nothing_left();
}

#[test]
fn a_client_killed_again_and_again_disturbs_no_other() {
    const TEST: &str = "a_client_killed_again_and_again_disturbs_no_other";
    if let Some(name) = support::role() {
        let client = client(&name);
        for i in 1.. {
            client.send_wait(&pattern(3000, i), LONG).unwrap();
            if i > 3 {
                let answer = client.receive(LONG).unwrap();
                assert_eq!(
                    (answer.request(), &answer[..]),
                    (i - 3, &pattern(3000, i - 3)[..])
                );
            }
            if i == 60 {
                support::say("at it");
            }
        }
    }
    let name = Name::new("duplex-kill-client");
    let (builder, errors) = server(&name, 3);
    let server = builder.start(echo).unwrap();
    for _ in 0..8 {
        let mut child = other(TEST, &name);
        assert_eq!(child.hear(), "at it");
        child.kill();
    }
    // None of the answers to those that died comes to this one.
    let client = client(&name);
    for i in 0..100 {
        assert_eq!(ask(&client, &pattern(500, i)), pattern(500, i));
    }
    assert_eq!(server.stats().clients, 9);
    drop(client);
    drop(server);
    for err in errors {
        assert!(err.is_peer_gone(), "{err}");
    }
    name.assert_nothing_left();
}

#[test]
fn answers_that_a_dead_server_left_are_not_those_of_the_next() {
    const TEST: &str = "answers_that_a_dead_server_left_are_not_those_of_the_next";
    if let Some(role) = support::role() {
        let (kind, name) = role.split_once(' ').unwrap();
        let mark = kind.as_bytes()[0];
        let name = name.to_string();
        return serve(&name, 1, move |request, reply| {
            let mut answer = reply.reserve(request.len() as u64)?;
            answer.fill(mark);
            Ok(answer)
        });
    }
    let name = Name::new("duplex-leftovers");
    let start = |kind: &str| ready(TEST, &format!("{kind} {}", &*name));
    let first = start("a");
    let client = client(&name);
    for _ in 0..3 {
        client.send(b"1234").unwrap();
    }
    // All are answered, none is received.
    let answers = Raw::open(&format!("{}_response", &*name));
    until(|| answers.get(raw::WRITTEN_COUNT) == 3);
    first.kill();
    // The next one comes to the buffer of this client, who has not noticed anything.
    let second = start("b");
    until(|| answers.get(raw::WRITER_PID) == second.pid());
    client.connect(LONG).unwrap();
    assert_eq!(client.pending(), 0);
    for i in 1..=5 {
        assert_eq!(client.send(b"5678").unwrap(), i);
        let answer = client.receive(LONG).unwrap();
        assert_eq!((answer.request(), &answer[..]), (i, &b"bbbb"[..]));
    }
    // It was not made to come again.
    assert_eq!(answers.get(raw::READER_PID), u64::from(std::process::id()));
    second.wait().expect_success();
}

#[test]
fn requests_that_a_client_left_are_not_answered_to_the_next_one() {
    for threads in [1, 3] {
        let name = Name::new("duplex-left");
        let (at_work, busy) = channel();
        let (go, wait) = channel();
        let (at_work, wait) = (Mutex::new(at_work), Mutex::new(wait));
        let server = (server(&name, threads).0)
            .start(move |request, reply| {
                if request[..] == *b"wait" {
                    at_work.lock().unwrap().send(()).unwrap();
                    wait.lock().unwrap().recv_timeout(LONG).unwrap();
                }
                echo(request, reply)
            })
            .unwrap();
        let first = client(&name);
        first.send(b"wait").unwrap();
        busy.recv_timeout(LONG).unwrap();
        first.close();
        // These two come to the ring that the server has not left yet.
        let second = client(&name);
        for _ in 0..3 {
            second.send(b"left").unwrap();
        }
        second.close();
        let third = client(&name);
        third.send(b"third").unwrap();
        third.send(b"again").unwrap();
        go.send(()).unwrap();
        for (number, bytes) in [(1, b"third"), (2, b"again")] {
            let answer = third.receive(LONG).unwrap();
            assert_eq!((answer.request(), &answer[..]), (number, &bytes[..]));
        }
        // It is the same connection to the end.
        assert_eq!(ask(&third, b"more"), b"more");
        drop(third);
        server.stop();
    }
}

#[test]
fn a_stopped_server_answers_late_and_right() {
    const TEST: &str = "a_stopped_server_answers_late_and_right";
    if let Some(name) = support::role() {
        return serve(&name, 1, echo);
    }
    let name = Name::new("duplex-stop-server");
    let server = ready(TEST, &name);
    let client = client(&name);
    assert_eq!(ask(&client, b"first"), b"first");
    server.stop();
    for i in 2..=4 {
        assert_eq!(client.send(&pattern(100, i)).unwrap(), i);
        // Given up, one by one.
        let late = client.receive(Duration::from_millis(50));
        assert!(matches!(late, Err(Error::Timeout { .. })), "{late:?}");
    }
    let interrupt = Interrupt::new();
    let end = thread::scope(|scope| {
        let waiting = scope.spawn(|| client.receive(Wait::forever().interrupted_by(&interrupt)));
        interrupt.set();
        waiting.join().unwrap()
    });
    assert!(matches!(end, Err(Error::Interrupted)), "{end:?}");
    assert!(client.is_server_connected(), "stopped is not dead");
    server.signal(Signal::SIGCONT);
    for i in 2..=4 {
        let answer = client.receive(LONG).unwrap();
        assert_eq!((answer.request(), &answer[..]), (i, &pattern(100, i)[..]));
    }
    server.wait().expect_success();
}

#[test]
fn a_stopped_client_finds_all_its_answers() {
    const TEST: &str = "a_stopped_client_finds_all_its_answers";
    const REQUESTS: u64 = 40;
    if let Some(name) = support::role() {
        let config = DuplexClientConfig::new(1024, 10_000);
        let client = DuplexClient::create(&name, config).unwrap();
        client.connect(LONG).unwrap();
        for i in 1..=REQUESTS {
            client.send_wait(&pattern(2000, i), LONG).unwrap();
        }
        support::say("sent");
        support::listen();
        for i in 1..=REQUESTS {
            let answer = client.receive(LONG).unwrap();
            assert_eq!((answer.request(), &answer[..]), (i, &pattern(2000, i)[..]));
        }
        return;
    }
    let name = Name::new("duplex-stop-client");
    let (builder, errors) = server(&name, 3);
    let server = builder.start(echo).unwrap();
    let mut child = other(TEST, &name);
    assert_eq!(child.hear(), "sent");
    child.stop();
    // The ring holds some of its answers; the server waits with the others.
    until(|| server.stats().waits > 0);
    assert!(server.stats().answers < REQUESTS);
    assert!(server.is_client_connected(), "stopped is not dead");
    child.signal(Signal::SIGCONT);
    child.tell("go on");
    child.wait().expect_success();
    server.stop();
    assert_eq!(server.stats().answers, REQUESTS);
    assert!(errors.try_recv().is_err());
}

#[test]
fn a_server_that_waits_for_room_can_be_stopped() {
    let name = Name::new("duplex-stop-waiting");
    let (builder, errors) = server(&name, 2);
    let server = builder.start(echo).unwrap();
    let client = DuplexClient::create(&name, DuplexClientConfig::new(1024, 4_160)).unwrap();
    client.connect(LONG).unwrap();
    for i in 0..6 {
        client.send(&pattern(2000, i)).unwrap();
    }
    until(|| server.stats().waits > 0);
    server.stop();
    assert!(errors.try_recv().is_err());
    // What was written before is not lost.
    for i in 0..2 {
        let answer = client.receive(LONG).unwrap();
        assert_eq!(
            (answer.request(), &answer[..]),
            (i + 1, &pattern(2000, i)[..])
        );
    }
    let end = client.receive(LONG).unwrap_err();
    assert!(matches!(end, Error::WriterClosed { .. }), "{end}");
}

#[test]
fn a_request_without_an_answer_is_noticed_at_once_and_costs_no_other_its_own() {
    let name = Name::new("duplex-skipped");
    let (builder, errors) = server(&name, 1);
    let _server = builder
        .start(|request, reply| match &request[..] {
            b"fail" => Err("it did not like that".into()),
            b"panic" => panic!("it fell over"),
            b"large" => Ok(reply.reserve(2 * PAYLOAD)?),
            b"empty" => Ok(reply.reserve(0)?),
            _ => echo(request, reply),
        })
        .unwrap();
    let client = client(&name);
    let mut number = 0;
    for (bad, text) in [
        ("fail", "it did not like that"),
        ("panic", "it panicked: it fell over"),
        ("large", "is too large for buffer"),
        ("empty", "a frame of 0 bytes does not exist"),
    ] {
        for good in ["good", "also good"] {
            assert_eq!(ask(&client, good.as_bytes()), good.as_bytes());
            number += 1;
        }
        number += 1;
        assert_eq!(client.send(bad.as_bytes()).unwrap(), number);
        let end = client.receive(LONG).unwrap_err();
        assert!(is_doubt(&end, number, number, 0), "{end}");
        let err = errors.recv().unwrap();
        assert!(
            matches!(err, Error::Handler { request, .. } if request == number),
            "{err}"
        );
        assert!(err.to_string().contains(text), "{err}");
    }
    assert_eq!(ask(&client, b"in step"), b"in step");
    assert_eq!(client.pending(), 0);
}

#[test]
fn between_our_own_ends_each_answer_is_that_of_its_request_whichever_have_none() {
    let name = Name::new("duplex-skipped-several");
    let bad = |number: u64| [2, 3, 6, 8].contains(&number);
    for threads in [1, 4] {
        let (builder, errors) = server(&name, threads);
        let server = builder
            .start(move |request, reply| match bad(reply.request()) {
                true => Err("not this one".into()),
                false => echo(request, reply),
            })
            .unwrap();
        let client = client(&name);
        let content = |i: u64| pattern(300, i);
        for i in 1..=8 {
            client.send(&content(i)).unwrap();
        }
        let mut found = Vec::new();
        while client.pending() > 0 || found.last() == Some(&(6, 6)) {
            match client.receive(LONG) {
                Ok(answer) => {
                    assert_eq!(answer[..], content(answer.request()));
                    found.push((answer.request(), 0));
                }
                Err(Error::OutOfStep {
                    first,
                    last,
                    answers: 0,
                    ..
                }) => found.push((first, last)),
                Err(err) => panic!("{err}"),
            }
        }
        assert_eq!(
            found,
            [(1, 0), (2, 3), (4, 0), (5, 0), (6, 6), (7, 0), (8, 8)]
        );
        for i in 9..=20 {
            assert_eq!(ask(&client, &content(i)), content(i));
        }
        // Who waits for one of those that have none learns it; the one behind is not in the way.
        let late = client.receive_for(8, LONG);
        assert!(matches!(late, Err(Error::OutOfStep { .. })), "{late:?}");
        let told: Vec<u64> = (0..4)
            .map(|_| match errors.recv().unwrap() {
                Error::Handler { request, .. } => request,
                err => panic!("{err}"),
            })
            .collect();
        assert_eq!(told.iter().sum::<u64>(), 19, "{told:?}");
        drop((client, server));
    }
}

#[test]
fn answers_in_a_ring_without_room_for_their_names_are_counted() {
    let name = Name::new("duplex-nameless");
    let (builder, errors) = server(&name, 1);
    let _server = builder
        .start(|request, reply| match &request[..] {
            b"fail" => Err("as it was told".into()),
            _ => {
                let mut answer = reply.reserve(1000)?;
                answer.fill(request[0]);
                Ok(answer)
            }
        })
        .unwrap();
    // Of one answer, and nothing else.
    let client = DuplexClient::create(&name, DuplexClientConfig::new(1024, 1024)).unwrap();
    client.connect(LONG).unwrap();
    for i in 0..5 {
        assert_eq!(ask(&client, &[i]), [i; 1000]);
        client.send(b"fail").unwrap();
        let end = client.receive(LONG).unwrap_err();
        let last = 2 * u64::from(i) + 2;
        assert!(
            matches!(end, Error::OutOfStep { first, last: found, answers, .. }
                if found == last && first + answers == last),
            "{end}"
        );
    }
    // It is told behind that the request was given back.
    for _ in 0..5 {
        errors.recv_timeout(LONG).unwrap();
    }
    assert!(errors.try_recv().is_err());
}

#[test]
fn with_a_v1_server_the_range_in_doubt_holds_the_one_without_an_answer() {
    const BAD: u64 = 4;
    let name = Name::new("duplex-doubt");
    let client = unconnected(&name, DuplexClientConfig::new(1024, 10_000));
    let server = ByHand::start(&name, &client, &BufferConfig::default());
    let content = |i: u64| pattern(300, i);
    for i in 1..=8 {
        client.send(&content(i)).unwrap();
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            for i in 1..=12 {
                let request = server.requests.read_frame(LONG).unwrap();
                if i != BAD {
                    server.answers.write_frame_wait(&request, LONG).unwrap();
                }
            }
        });
        let mut wrong = Vec::new();
        let end = loop {
            match client.receive(LONG) {
                Ok(answer) if answer[..] == content(answer.request()) => {}
                Ok(answer) => wrong.push(answer.request()),
                Err(err) => break err,
            }
        };
        let Error::OutOfStep { first, last, .. } = end else {
            panic!("{end}");
        };
        assert!(first <= BAD && last == 8, "{end}");
        assert!(wrong.iter().all(|number| (first..=last).contains(number)));
        for i in 9..=12 {
            assert_eq!(ask(&client, &content(i)), content(i));
        }
    });
}

/// A server made by hand, which answers as it is told.
struct ByHand {
    requests: Reader,
    answers: Writer,
}

impl ByHand {
    fn start(name: &str, client: &DuplexClient, config: &BufferConfig) -> Self {
        let requests = Reader::create(&format!("{name}_request"), config).unwrap();
        client.connect(LONG).unwrap();
        let answers = Writer::attach_wait(&format!("{name}_response"), LONG).unwrap();
        ByHand { requests, answers }
    }
}

fn unconnected(name: &str, config: DuplexClientConfig) -> DuplexClient {
    let client = DuplexClient::create(name, config).unwrap();
    let none = client.send(b"nobody").unwrap_err();
    assert!(matches!(none, Error::NotConnected { .. }), "{none}");
    client
}

#[test]
fn an_answer_too_many_is_noticed_before_the_next_request() {
    let name = Name::new("duplex-doubled");
    let config = DuplexClientConfig::new(1024, 10_000);
    let client = unconnected(&name, config);
    let server = ByHand::start(&name, &client, &BufferConfig::default());
    client.send(b"one").unwrap();
    let request = server.requests.read_frame(LONG).unwrap();
    server.answers.write_frame(b"ONE").unwrap();
    server.answers.write_frame(b"ONE AGAIN").unwrap();
    drop(request);
    assert_eq!(client.receive(LONG).unwrap()[..], *b"ONE");
    let end = client.send(b"two").unwrap_err();
    assert!(is_doubt(&end, 1, 1, 2), "{end}");
    // Nothing goes before it was said where the answers are received.
    let end = client.send(b"two").unwrap_err();
    assert!(matches!(end, Error::OutOfStep { .. }), "{end}");
    let end = client.receive(LONG).unwrap_err();
    assert!(is_doubt(&end, 1, 1, 2), "{end}");
    assert_eq!(client.send(b"two").unwrap(), 2);
    drop(server.requests.read_frame(LONG).unwrap());
    // Given back without an answer, then the same with one.
    let end = client.receive(LONG).unwrap_err();
    assert!(is_doubt(&end, 2, 2, 0), "{end}");
    assert_eq!(client.send(b"three").unwrap(), 3);
    let request = server.requests.read_frame(LONG).unwrap();
    assert_eq!(request[..], *b"three");
    server.answers.write_frame(b"THREE").unwrap();
    let answer = client.receive(LONG).unwrap();
    assert_eq!((answer.request(), &answer[..]), (3, &b"THREE"[..]));
}

#[test]
fn an_answer_too_many_is_noticed_by_who_receives_when_nothing_is_under_way() {
    let name = Name::new("duplex-unasked");
    let client = unconnected(&name, DuplexClientConfig::new(1024, 10_000));
    let server = ByHand::start(&name, &client, &BufferConfig::default());
    server.answers.write_frame(b"unasked").unwrap();
    let end = client.receive(LONG).unwrap_err();
    assert!(is_doubt(&end, 0, 0, 1), "{end}");
    client.send(b"asked").unwrap();
    let request = server.requests.read_frame(LONG).unwrap();
    server.answers.write_frame(b"ASKED").unwrap();
    drop(request);
    assert_eq!(client.receive(LONG).unwrap()[..], *b"ASKED");
}

#[test]
fn a_server_that_answers_after_it_gave_the_request_back_is_no_cause_for_alarm_if_told() {
    let name = Name::new("duplex-late");
    let config = DuplexClientConfig::new(1024, 10_000).with_answers_after_release();
    let client = unconnected(&name, config);
    let server = ByHand::start(&name, &client, &BufferConfig::default());
    for i in 1..=3 {
        client.send(&pattern(100, i)).unwrap();
    }
    let requests: Vec<Vec<u8>> = (0..3)
        .map(|_| server.requests.read_frame(LONG).unwrap().to_vec())
        .collect();
    let none = client.receive(Duration::from_millis(50));
    assert!(matches!(none, Err(Error::Timeout { .. })), "{none:?}");
    for request in requests {
        server.answers.write_frame(&request).unwrap();
    }
    for i in 1..=3 {
        let answer = client.receive(LONG).unwrap();
        assert_eq!((answer.request(), &answer[..]), (i, &pattern(100, i)[..]));
    }
    // One too many is all that can be noticed, and only a new connection helps.
    server.answers.write_frame(b"again").unwrap();
    for _ in 0..2 {
        let end = client.receive(LONG).unwrap_err();
        assert!(matches!(end, Error::OutOfStep { .. }), "{end}");
        let end = client.send(b"more").unwrap_err();
        assert!(matches!(end, Error::OutOfStep { .. }), "{end}");
    }
    client.connect(LONG).unwrap();
    // In a buffer in which the old answers are not.
    assert!(!server.answers.is_reader_connected());
    let answers = Writer::attach(&format!("{}_response", &*name)).unwrap();
    assert_eq!(client.send(b"first").unwrap(), 1);
    assert_eq!(server.requests.read_frame(LONG).unwrap()[..], *b"first");
    answers.write_frame(b"FIRST").unwrap();
    assert_eq!(client.receive(LONG).unwrap()[..], *b"FIRST");
}

#[test]
fn metadata_goes_both_ways_for_each_client_anew() {
    let name = Name::new("duplex-metadata");
    let (builder, errors) = server(&name, 1);
    let (tell, heard) = channel();
    let server = builder
        .on_metadata(move |metadata| {
            let metadata = metadata.map(<[u8]>::to_vec);
            tell.send(metadata.clone()).unwrap();
            metadata.map(|metadata| [&b"answers to "[..], &metadata].concat())
        })
        .start(echo)
        .unwrap();
    for text in ["first", "second"] {
        let config = DuplexClientConfig::new(METADATA, PAYLOAD);
        let client = DuplexClient::create(&name, config).unwrap();
        client.connect_with(text.as_bytes(), LONG).unwrap();
        for i in 0..3 {
            assert_eq!(ask(&client, &[i]), [i]);
        }
        assert_eq!(heard.recv().unwrap().as_deref(), Some(text.as_bytes()));
        let metadata = client.metadata().unwrap();
        assert_eq!(metadata, Some(format!("answers to {text}").into_bytes()));
    }
    let client = client(&name);
    assert_eq!(ask(&client, b"none"), b"none");
    assert_eq!(heard.recv().unwrap(), None);
    assert_eq!(client.metadata().unwrap(), None);
    assert!(heard.try_recv().is_err(), "once for each client");
    assert!(errors.try_recv().is_err());
    assert_eq!(server.stats().clients, 3);
}

#[test]
fn a_client_may_connect_to_the_next_server_with_other_metadata() {
    const TEST: &str = "a_client_may_connect_to_the_next_server_with_other_metadata";
    if let Some(name) = support::role() {
        let server = DuplexServer::builder(&name, DuplexServerConfig::new(METADATA, PAYLOAD))
            .on_metadata(|metadata| metadata.map(<[u8]>::to_vec))
            .start(echo)
            .unwrap();
        support::say("ready");
        support::listen();
        return server.stop();
    }
    let name = Name::new("duplex-metadata-again");
    let client = DuplexClient::create(&name, DuplexClientConfig::new(METADATA, PAYLOAD)).unwrap();
    let mut server = ready(TEST, &name);
    for text in ["one", "two", "three"] {
        client.connect_with(text.as_bytes(), LONG).unwrap();
        assert_eq!(ask(&client, b"x"), b"x");
        assert_eq!(client.metadata().unwrap().as_deref(), Some(text.as_bytes()));
        server.kill();
        let end = client.receive(LONG).unwrap_err();
        assert!(end.is_peer_gone(), "{end}");
        // The next one may come to the buffer in which the metadata of the last one is.
        server = ready(TEST, &name);
    }
    server.wait().expect_success();
}

#[test]
fn either_side_may_come_first_and_a_wait_for_the_other_can_be_ended() {
    let name = Name::new("duplex-first");
    let config = DuplexClientConfig::new(METADATA, PAYLOAD);
    let client = unconnected(&name, config);
    let none = client.connect(Wait::no()).unwrap_err();
    assert!(matches!(none, Error::BufferNotFound { .. }), "{none}");
    let interrupt = Interrupt::new();
    let end = thread::scope(|scope| {
        let waiting = scope.spawn(|| client.connect(Wait::forever().interrupted_by(&interrupt)));
        interrupt.set();
        waiting.join().unwrap()
    });
    assert!(matches!(end, Err(Error::Interrupted)), "{end:?}");
    thread::scope(|scope| {
        let connecting = scope.spawn(|| client.connect(LONG));
        let _server = server(&name, 1).0.start(echo).unwrap();
        connecting.join().unwrap().unwrap();
        assert_eq!(ask(&client, b"hello"), b"hello");
        // The second time is nothing.
        client.connect(Wait::no()).unwrap();
        assert_eq!(client.send(b"still the same").unwrap(), 2);
    });
    // There can be one client and one server.
    let _server = server(&name, 1).0.start(echo).unwrap();
    let second = DuplexClient::create(&name, config).unwrap_err();
    assert!(matches!(second, Error::ReaderAlreadyConnected { .. }));
    let second = server(&name, 1).0.start(echo).unwrap_err();
    assert!(matches!(second, Error::ReaderAlreadyConnected { .. }));
    client.close();
    for end in [
        client.connect(LONG).unwrap_err(),
        client.send(b"x").unwrap_err(),
        client.receive(LONG).unwrap_err(),
    ] {
        assert!(matches!(end, Error::Closed { .. }), "{end}");
    }
}

#[test]
fn a_client_that_makes_no_buffer_for_answers_is_told_of_and_the_next_is_served() {
    let name = Name::new("duplex-no-response");
    let (tell, errors) = channel();
    let config = DuplexServerConfig {
        response_timeout: Duration::from_millis(50),
        ..DuplexServerConfig::new(METADATA, PAYLOAD)
    };
    let tell = Mutex::new(tell);
    let _server = DuplexServer::builder(&name, config)
        .on_error(move |err| tell.lock().unwrap().send(copy_of(err)).unwrap())
        .start(echo)
        .unwrap();
    let writer = Writer::attach(&format!("{}_request", &*name)).unwrap();
    writer.write_frame(b"answer me").unwrap();
    let err = errors.recv().unwrap();
    let text = "there is no buffer";
    assert!(err.to_string().contains(text), "{err}");
    until(|| writer.used_bytes() == 0);
    drop(writer);
    assert_eq!(ask(&client(&name), b"served"), b"served");
}

#[test]
fn as_many_requests_as_allowed_may_be_under_way() {
    let name = Name::new("duplex-many");
    let config = DuplexClientConfig::new(1024, 10_000).with_in_flight(3);
    let client = unconnected(&name, config);
    let server = ByHand::start(&name, &client, &BufferConfig::default());
    for i in 1..=3 {
        assert_eq!(client.send(b"x").unwrap(), i);
    }
    let end = client.send(b"x").unwrap_err();
    assert!(
        matches!(end, Error::TooManyRequests { count: 3, .. }),
        "{end}"
    );
    let request = server.requests.read_frame(LONG).unwrap();
    server.answers.write_frame(&request).unwrap();
    assert_eq!(client.receive(LONG).unwrap().request(), 1);
    assert_eq!(client.send(b"x").unwrap(), 4);
    let none = DuplexClient::create(&name, config.with_in_flight(0)).unwrap_err();
    assert!(matches!(none, Error::InvalidConfig { .. }), "{none}");
}

#[test]
fn requests_lent_ahead_go_out_in_any_order_and_answers_are_held_as_long_as_one_likes() {
    let name = Name::new("duplex-ahead");
    let _server = server(&name, 2).0.start(invert).unwrap();
    let client = DuplexClient::create(&name, DuplexClientConfig::new(1024, 8_192)).unwrap();
    client.connect(LONG).unwrap();
    client.set_evacuation(true);
    let mut requests: Vec<_> = (0..3)
        .map(|_| client.reserve_ahead(2000).unwrap())
        .collect();
    let mut held = BTreeMap::new();
    // The second is passed by when the third goes first.
    let mut third = requests.pop().unwrap();
    third.fill(3);
    held.insert(third.publish().unwrap(), 3);
    assert_eq!(third[..], [3; 2000], "what was sent stays as it is");
    let mut second = requests.pop().unwrap();
    second.fill(2);
    let passed = second.publish().unwrap_err();
    assert!(matches!(passed, Error::OutOfOrder), "{passed}");
    held.insert(client.send(&second).unwrap(), 2);
    for i in 4..40 {
        held.insert(client.send_wait(&[i; 2000], LONG).unwrap(), i);
    }
    // More answers than the ring has room for are held at once.
    let answers: Vec<_> = (0..held.len())
        .map(|_| client.receive(LONG).unwrap())
        .collect();
    for (i, answer) in (1..).zip(&answers) {
        assert_eq!(answer.request(), i);
        assert_eq!(answer[..], [!held[&i]; 2000], "answer {i}");
    }
    drop(client);
    assert_eq!(answers[0][..], [!3; 2000], "also when the client is gone");
}

#[test]
fn a_callback_that_panics_stops_no_server() {
    let name = Name::new("duplex-panic");
    let count = Arc::new(AtomicU64::new(0));
    let told = count.clone();
    let config = DuplexServerConfig::new(METADATA, PAYLOAD).with_threads(2);
    let server = DuplexServer::builder(&name, config)
        .on_error(move |_| {
            told.fetch_add(1, Ordering::SeqCst);
            panic!("told too much");
        })
        .on_metadata(|metadata| {
            assert!(metadata.is_none(), "it cannot read that");
            None
        })
        .start(|request, reply| match &request[..] {
            b"fail" => Err("failed".into()),
            _ => echo(request, reply),
        })
        .unwrap();
    let client = client(&name);
    for i in 1..=5 {
        client.send(b"fail").unwrap();
        let end = client.receive(LONG).unwrap_err();
        assert!(is_doubt(&end, 2 * i - 1, 2 * i - 1, 0), "{end}");
        assert_eq!(ask(&client, b"go on"), b"go on");
    }
    // One thread may have answered already while the other is about to tell.
    until(|| count.load(Ordering::SeqCst) == 5);
    drop(client);
    // Answers about which nobody knows anything are none.
    let config = DuplexClientConfig::new(METADATA, PAYLOAD);
    let client = DuplexClient::create(&name, config).unwrap();
    client.connect_with(b"odd", LONG).unwrap();
    client.send(b"x").unwrap();
    let end = client.receive(LONG).unwrap_err();
    assert!(matches!(end, Error::WriterClosed { .. }), "{end}");
    assert_eq!(count.load(Ordering::SeqCst), 6);
    assert!(server.is_running());
}

#[test]
fn names_that_are_too_long_for_two_buffers_are_refused() {
    let name = "n".repeat(237);
    let config = DuplexClientConfig::new(1024, 1024);
    let client = DuplexClient::create(&name, config).unwrap_err();
    assert!(matches!(client, Error::InvalidName { .. }), "{client}");
    let server = DuplexServer::builder(&"n".repeat(238), DuplexServerConfig::default());
    let server = server.start(echo).unwrap_err();
    assert!(matches!(server, Error::InvalidName { .. }), "{server}");
}
