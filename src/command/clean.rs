//! `zerobuffer clean`.

use std::io::{Write, stdout};
use std::process::ExitCode;

use gstzerobuffer::inspect::{self, Cleaned};

use crate::arguments::Clean;
use crate::{Failure, complain, list, text};

pub fn run(options: &Clean) -> Result<ExitCode, Failure> {
    let named = !options.names.is_empty();
    let names = if named {
        options.names.clone()
    } else {
        let mut names = list::names()?;
        names.extend(inspect::leftovers());
        names
    };
    let mut out = stdout();
    let verb = if options.dry_run {
        "would remove"
    } else {
        "removed"
    };
    let (mut removed, mut failed) = (0, false);
    for name in &names {
        let shown = text::plain(name);
        match inspect::clean(name, options.dry_run) {
            Ok(Cleaned::Removed(bytes)) => {
                removed += 1;
                writeln!(out, "{verb}\t{shown}\t{}", text::bytes(bytes))?;
            }
            // Those that live are no news.
            Ok(Cleaned::Kept(why)) if named => {
                failed = true;
                writeln!(out, "kept\t{shown}\t{}", text::plain(&why))?;
            }
            Ok(Cleaned::Kept(_)) => {}
            Err(err) => {
                failed = true;
                complain(&err);
            }
        }
    }
    if removed == 0 && !failed {
        writeln!(out, "There is nothing to remove.")?;
    }
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
