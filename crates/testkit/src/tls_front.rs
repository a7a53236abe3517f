use std::io::{self, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::http::{Answer, read_message, request_bytes};

/// The authority, in PEM, that has issued every [`ServerCertificate`]. No system trusts it.
pub const AUTHORITY: &str = include_str!("../tls/authority.pem");
/// Another authority, which has issued none of them.
pub const ANOTHER_AUTHORITY: &str = include_str!("../tls/another-authority.pem");

/// A certificate of [`AUTHORITY`] that a server shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerCertificate {
    /// For `localhost` and 127.0.0.1, from 2020 to 2120.
    Good,
    /// The same, and its time was over in 2021.
    Expired,
    /// The same, and its time begins in 2100.
    Future,
    /// For another name.
    Elsewhere,
}

/// The key of every [`ServerCertificate`], in PEM.
pub(crate) const KEY: &str = include_str!("../tls/key.pem");

impl ServerCertificate {
    /// In PEM.
    pub(crate) fn pem(self) -> &'static str {
        match self {
            Self::Good => include_str!("../tls/good.pem"),
            Self::Expired => include_str!("../tls/expired.pem"),
            Self::Future => include_str!("../tls/future.pem"),
            Self::Elsewhere => include_str!("../tls/elsewhere.pem"),
        }
    }
}

/// What terminates TLS in front of a server that speaks HTTP.
pub struct TlsFront {
    /// Where clients find it, with `https://`.
    pub url: String,
}

impl TlsFront {
    /// In front of the server at this `http://` address, on a free port of the loopback interface.
    pub fn start(server: &str, certificate: ServerCertificate) -> Self {
        let upstream = server.trim_start_matches("http://").to_owned();
        let chain = vec![CertificateDer::from_pem_slice(certificate.pem().as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (upstream, config) = (upstream.clone(), Arc::clone(&config));
                std::thread::spawn(move || {
                    let _ = converse(client, &upstream, config);
                });
            }
        });
        Self { url }
    }
}

fn converse(client: TcpStream, upstream: &str, config: Arc<ServerConfig>) -> io::Result<()> {
    client.set_nodelay(true)?;
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut client = BufReader::new(StreamOwned::new(connection, client));
    let mut to_server = TcpStream::connect(upstream)?;
    to_server.set_nodelay(true)?;
    let mut from_server = BufReader::new(to_server.try_clone()?);
    loop {
        let (head, body) = read_message(&mut client)?;
        to_server.write_all(&request_bytes(&head, &body))?;
        let (head, body) = read_message(&mut from_server)?;
        client.get_mut().write_all(&Answer::of(&head, body).to_bytes())?;
        client.get_mut().flush()?;
    }
}
