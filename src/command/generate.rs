//! `zerobuffer generate`: what a package installs beside the program, from the same command line.

use std::fs::{self, File};
use std::io::{Write, stdout};
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::Failure;
use crate::arguments::{Arguments, Generate};

pub fn run(options: &Generate) -> Result<ExitCode, Failure> {
    let folder = &options.folder;
    fs::create_dir_all(folder).map_err(|err| format!("{}: {err}", folder.display()))?;
    let mut command = Arguments::command();
    command.build();
    // It has no page of its own.
    command = command.mut_subcommand("help", |help| help.hide(true));
    let pages = std::iter::once(&command).chain(command.get_subcommands());
    for page in pages.filter(|page| !page.is_hide_set() && page.get_name() != "help") {
        let page = clap_mangen::Man::new(page.clone())
            .date("")
            .source(concat!("zerobuffer ", env!("CARGO_PKG_VERSION")))
            .manual("ZeroBuffer");
        let path = folder.join(page.get_filename());
        let mut file = File::create(&path).map_err(|err| format!("{}: {err}", path.display()))?;
        page.render(&mut file)?;
        writeln!(stdout(), "{}", path.display())?;
    }
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut command = Arguments::command();
        let path = clap_complete::generate_to(shell, &mut command, "zerobuffer", folder)?;
        writeln!(stdout(), "{}", path.display())?;
    }
    Ok(ExitCode::SUCCESS)
}
