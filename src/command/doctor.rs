//! `zerobuffer doctor`: what would keep two processes from meeting.

mod ends;
mod machine;

use std::io::{Write, stdout};
use std::process::ExitCode;

use gstzerobuffer::inspect::{self, Inspection};
use serde_json::{Value, json};

use crate::arguments::Doctor;
use crate::{Failure, list, text};

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weight {
    /// It is as it should be.
    Fine,
    /// Worth knowing; it need not keep anybody from anything.
    Note,
    /// It keeps, or will keep, somebody from something.
    Problem,
}

impl Weight {
    fn as_str(self) -> &'static str {
        match self {
            Weight::Fine => "ok",
            Weight::Note => "note",
            Weight::Problem => "problem",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug)]
struct Finding {
    weight: Weight,
    /// What it is about, in a word or two.
    about: &'static str,
    /// How it is.
    what: String,
    /// What to do; empty if there is nothing to be done.
    remedy: String,
}

/// All findings, in the order in which they were made.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, weight: Weight, about: &'static str, what: String, remedy: &str) {
        self.0.push(Finding {
            weight,
            about,
            what,
            remedy: remedy.into(),
        });
    }

    fn fine(&mut self, about: &'static str, what: String) {
        self.add(Weight::Fine, about, what, "");
    }

    fn note(&mut self, about: &'static str, what: String, remedy: &str) {
        self.add(Weight::Note, about, what, remedy);
    }

    fn problem(&mut self, about: &'static str, what: String, remedy: &str) {
        self.add(Weight::Problem, about, what, remedy);
    }

    fn problems(&self) -> usize {
        let problems = self.0.iter().filter(|it| it.weight == Weight::Problem);
        problems.count()
    }
}

pub fn run(options: &Doctor) -> Result<ExitCode, Failure> {
    let mut findings = Findings::default();
    machine::look(&mut findings);
    leftovers(&mut findings);
    if let Some(name) = &options.name {
        ends::look(name, &mut findings)?;
    }
    let problems = findings.problems();
    let mut out = stdout();
    if options.json {
        let list = findings.0.iter().map(|it| {
            json!({
                "weight": it.weight.as_str(),
                "about": it.about,
                "what": it.what,
                "remedy": (!it.remedy.is_empty()).then_some(&it.remedy),
            })
        });
        let list: Vec<Value> = list.collect();
        writeln!(
            out,
            "{:#}",
            json!({ "problems": problems, "findings": list })
        )?;
    } else {
        for it in &findings.0 {
            let what = text::plain(&it.what);
            writeln!(out, "{:<8} {}: {what}", it.weight.as_str(), it.about)?;
            if !it.remedy.is_empty() {
                writeln!(out, "{:<8} → {}", "", text::plain(&it.remedy))?;
            }
        }
        match problems {
            0 => writeln!(out, "No problem was found.")?,
            _ => {
                let found = text::count(problems, "problem was", "problems were");
                writeln!(out, "{found} found.")?;
            }
        }
    }
    Ok(if problems > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// What dead readers have left. It keeps nobody from anything but for the room that it takes.
fn leftovers(findings: &mut Findings) {
    let Ok(buffers) = list::names() else {
        // That has been told as a problem.
        return;
    };
    let mut room = 0;
    let mut names = Vec::new();
    let mut seen = |name: String, bytes| {
        if matches!(
            inspect::clean(&name, true),
            Ok(inspect::Cleaned::Removed(_))
        ) {
            names.push(name);
            room += bytes;
        }
    };
    for name in buffers {
        let bytes = Inspection::of(&name).map_or(0, |seen| seen.file.room);
        seen(name, bytes);
    }
    for name in inspect::leftovers() {
        seen(name, 0);
    }
    if names.is_empty() {
        findings.fine("leftovers", "no dead reader has left anything".into());
        return;
    }
    let some: Vec<String> = names.iter().take(5).cloned().collect();
    let more = if names.len() > some.len() {
        ", …"
    } else {
        ""
    };
    let what = if room == 0 {
        "nothing but semaphores and lock files".to_string()
    } else {
        format!("{} of shared memory", text::bytes(room))
    };
    findings.note(
        "leftovers",
        format!(
            "{} left {what}: {}{more}",
            text::count(names.len(), "dead reader", "dead readers"),
            some.join(", ")
        ),
        "zerobuffer clean removes what is this user's; so does the next reader of such a name",
    );
}
