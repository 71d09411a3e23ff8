//! A request of which the head has come, and the client that has sent it.

use std::net::SocketAddr;

/// A client's end of a TCP connection to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Client {
    /// The index of our address to which the connection leads: one end of a client may be connected
    /// to several of our addresses at once.
    pub listener: usize,
    /// The address of the client's end.
    pub address: SocketAddr,
}

/// A request of which the head has come.
pub struct Arrival {
    /// The request.
    pub request: tiny_http::Request,
    /// The client that has sent it. `None` on a Unix socket, where clients have no address.
    pub client: Option<Client>,
}

impl Arrival {
    /// A request that came to our address with the index `listener`.
    pub fn new(request: tiny_http::Request, listener: usize) -> Arrival {
        let address = request.remote_addr().copied();
        Arrival {
            client: address.map(|address| Client { listener, address }),
            request,
        }
    }
}
