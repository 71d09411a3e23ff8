//! The program `session-file-server`; what it does is in [`session_file_server::commands`].

#![forbid(unsafe_code)]

use std::process::ExitCode;

use session_file_server::commands::{self, arguments::Arguments};
use session_file_server::{output, signals};

/// What a wrong command line ends with, as for other programs.
const WRONG_USAGE: u8 = 2;

fn main() -> ExitCode {
    // Without it a full log would end the program; nothing else would be different.
    let _ = signals::survive_full_files();
    let arguments = match Arguments::parse(lexopt::Parser::from_env()) {
        Ok(arguments) => arguments,
        Err(error) => {
            output::complain(&format!("{error}; see --help"));
            return ExitCode::from(WRONG_USAGE);
        }
    };
    match commands::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            output::complain(&message);
            ExitCode::FAILURE
        }
    }
}
