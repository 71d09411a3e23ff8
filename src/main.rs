//! The program `session-file-server`; what it does is in [`session_file_server::commands`].

#![forbid(unsafe_code)]

use std::process::ExitCode;

use session_file_server::commands::{self, arguments::Arguments};
use session_file_server::{output, signals};

/// The exit status after a wrong command line, 2 by convention.
const USAGE_ERROR: u8 = 2;

fn main() -> ExitCode {
    // If this fails, the only difference is that a log at its size limit ends the program.
    let _ = signals::survive_file_size_limit();
    let arguments = match Arguments::parse(lexopt::Parser::from_env()) {
        Ok(arguments) => arguments,
        Err(error) => {
            output::complain(&format!("{error}; see --help"));
            return ExitCode::from(USAGE_ERROR);
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
