//! The soak, `examples/soak.rs`, for some seconds; and that it finds what it is there to find.

mod support;
#[path = "support/python.rs"]
mod support_python;

use support::{Running, example};

#[test]
fn ends_come_and_go_under_load_and_no_byte_is_wrong() {
    let mut soak = example("soak");
    // Another seed each time; a run that fails names it.
    soak.args(["--seconds", "15", "--python"]);
    soak.arg(support_python::interpreter());
    let ended = Running::start(&mut soak).wait();
    let ended = ended.expect_success();
    let last = ended.out.lines().last().unwrap();
    println!("{last}");
    let count = |what: &str| -> u64 {
        let mut words = last.split([' ', ',']).filter(|word| !word.is_empty());
        let mut before = "";
        words
            .find_map(|word| {
                let number = std::mem::replace(&mut before, word);
                (word == what).then(|| number.parse().unwrap())
            })
            .unwrap_or_else(|| panic!("no {what}: {last}"))
    };
    for what in ["frames", "kills", "pauses", "closes", "from"] {
        assert!(count(what) > 0, "no {what}: {last}");
    }
    for what in ["names", "descriptors", "threads", "mappings"] {
        assert_eq!(count(what), 0, "{what}: {last}");
    }
}

#[test]
fn one_wrong_byte_ends_the_soak_and_names_the_seed() {
    let mut soak = example("soak");
    let args = ["--seconds", "120", "--seed", "7", "--spoil"];
    let ended = Running::start(soak.args(args)).wait();
    assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
    assert!(ended.err.contains("frame 10 of"), "{}", ended.err);
    assert!(ended.err.contains("has wrong bytes"), "{}", ended.err);
    assert!(ended.err.contains("--seed 7"), "{}", ended.err);
}
