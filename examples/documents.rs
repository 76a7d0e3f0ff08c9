//! Writes the manual pages and the shell completions, which the packages hold, from the program's own flags.
//!
//! `cargo run --example documents -- FOLDER`

use std::{env, error::Error, fs, path::PathBuf};

use clap::CommandFactory;
use clap_complete::Shell::{Bash, Fish, Zsh};
use dovecot_capacity_exporter::cli::Config;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = env::args_os().nth(1).map(PathBuf::from).ok_or("give the folder to write to")?;
    fs::create_dir_all(&folder)?;
    let name = env!("CARGO_PKG_NAME");
    clap_mangen::generate_to(Config::command(), &folder)?;
    for shell in [Bash, Fish, Zsh] {
        clap_complete::generate_to(shell, &mut Config::command(), name, &folder)?;
    }
    Ok(())
}
