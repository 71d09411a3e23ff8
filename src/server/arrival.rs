//! A request of which the head has come, and the client that has sent it.

use std::net::SocketAddr;

/// A client's end of a TCP connection to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Client {
    /// To which of our addresses the connection leads, by its place in their list: one end may
    /// lead to several at once.
    pub listener: usize,
    /// The end's own address.
    pub address: SocketAddr,
}

/// A request of which the head has come.
pub struct Arrival {
    /// The request.
    pub request: tiny_http::Request,
    /// Who has sent it; nobody is known behind a Unix socket.
    pub client: Option<Client>,
}

impl Arrival {
    /// A request that came to the address with that place in the list.
    pub fn new(request: tiny_http::Request, listener: usize) -> Arrival {
        let address = request.remote_addr().copied();
        Arrival {
            client: address.map(|address| Client { listener, address }),
            request,
        }
    }
}
