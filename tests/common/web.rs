//! The web server that the README recommends, as the package sets it up.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::is_root;

/// The socket that the examples name.
pub const SOCKET: &str = "/run/session-file-server/http.sock";

/// A port that nobody has.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// nginx on `port`, before the server that has the Unix `socket`; `folder` is for its own files.
pub fn nginx(folder: &Path, socket: &Path, port: u16) -> Child {
    let site = include_str!("../../packaging/nginx/session-file-server")
        .replace(
            "listen 80 default_server",
            &format!("listen 127.0.0.1:{port}"),
        )
        .replace("    listen [::]:80 default_server;\n", "")
        .replace(SOCKET, socket.to_str().expect("UTF-8"));
    assert!(site.contains(&format!(":{port};")) && !site.contains(SOCKET));
    let user = if is_root() { "user www-data;" } else { "" };
    let folder = folder.display();
    let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {folder}/{name};"))
        .join("\n");
    let config = format!(
        "{user}\ndaemon off;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\n\
         http {{\n{paths}\n{site}\n}}\n"
    );
    let path = format!("{folder}/nginx.conf");
    std::fs::write(&path, config).expect("writable");
    let mut nginx = Command::new("nginx");
    nginx.args(["-c", &path]).env("PATH", path_with_sbin());
    nginx
        .stderr(Stdio::null())
        .spawn()
        .expect("nginx is installed")
}

/// Not every user's path has the folder of servers.
pub fn path_with_sbin() -> String {
    format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default())
}
