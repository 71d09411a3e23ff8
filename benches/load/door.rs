//! The ways in which clients reach the server.

use std::str::FromStr;

use crate::common::Server;
use crate::web::Nginx;

/// A way to the server.
#[derive(Clone, Copy, PartialEq)]
pub enum Door {
    /// A port on the loopback interface.
    Tcp,
    /// A Unix socket.
    Unix,
    /// A Unix socket behind nginx, as the package sets it up.
    Nginx,
}

impl FromStr for Door {
    type Err = String;

    fn from_str(text: &str) -> Result<Door, String> {
        match text {
            "tcp" => Ok(Door::Tcp),
            "unix" => Ok(Door::Unix),
            "nginx" => Ok(Door::Nginx),
            other => Err(format!("there is no way {other}; see --help")),
        }
    }
}

impl Door {
    /// The settings of a server behind this door, as lines of TOML.
    pub fn settings(self) -> &'static str {
        match self {
            // Servers of the test fixture listen there.
            Door::Tcp => "",
            Door::Unix | Door::Nginx => "listen = 'unix:http.sock'\nsocket_mode = '666'",
        }
    }

    /// Opens the door of a server that has its settings.
    pub fn open(self, server: &Server) -> Open {
        let nginx = (self == Door::Nginx).then(|| Nginx::before(server));
        let address = nginx.as_ref().map_or(&server.address, |web| &web.address);
        Open {
            address: address.clone(),
            _nginx: nginx,
        }
    }
}

/// An open door. It closes when this is dropped.
pub struct Open {
    /// `host:port` or `unix:PATH`.
    pub address: String,
    _nginx: Option<Nginx>,
}
