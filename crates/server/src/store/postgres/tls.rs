//! TLS to PostgreSQL, by rustls: what is verified is up to `sslmode`.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use deadpool_postgres::Connect;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;
use tokio_postgres::config::{Config, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres::{Client, Connection, Socket};
use tokio_rustls::TlsConnector;

use super::binding::end_point;
use super::error::{PostgresError, PostgresErrorKind};
use super::verifier::Unnamed;
use crate::store::location::{Authorities, Encryption, PostgresLocation};

/// The name of the protocol, which a handshake without a request for TLS before it has to tell (PostgreSQL 17).
const PROTOCOL: &[u8] = b"postgresql";

/// Makes connections, encrypted as the location says.
#[derive(Clone)]
pub(super) struct Connector {
    shared: Arc<Shared>,
}

struct Shared {
    tls: TlsConnector,
    /// The hosts that are not this machine.
    remote: BTreeSet<String>,
    /// Whether it was told that a connection to one of them is not encrypted.
    told: AtomicBool,
}

impl Connector {
    /// # Errors
    /// When the authorities of the location cannot be read.
    pub(super) fn new(location: &PostgresLocation) -> Result<Self, PostgresError> {
        let provider = Arc::new(ring::default_provider());
        let verifier = verifier(location.encryption(), &provider)?;
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|_| PostgresError::of(PostgresErrorKind::Tls, "TLS cannot be set up"))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        if location.config().get_ssl_negotiation() == SslNegotiation::Direct {
            tls.alpn_protocols = vec![PROTOCOL.to_vec()];
        }
        Ok(Self {
            shared: Arc::new(Shared {
                tls: TlsConnector::from(Arc::new(tls)),
                remote: location.remote_names(),
                told: AtomicBool::new(false),
            }),
        })
    }

    /// Connects to the first host that can be used.
    pub(super) async fn connect(
        &self,
        config: &Config,
    ) -> Result<(Client, Connection<Socket, Encrypted>), tokio_postgres::Error> {
        let attempt = Attempt {
            tls: self.shared.tls.clone(),
            last: Arc::default(),
        };
        let last = Arc::clone(&attempt.last);
        let connected = config.connect(attempt).await?;
        let last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if !last.encrypted
            && self.shared.remote.contains(&last.host)
            && !self.shared.told.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                host = last.host,
                "the connection to PostgreSQL is not encrypted: ask for sslmode=verify-full, or tunnel it"
            );
        }
        Ok(connected)
    }
}

impl Connect for Connector {
    fn connect(
        &self,
        config: &Config,
    ) -> Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), tokio_postgres::Error>> + Send + '_>>
    {
        let config = config.clone();
        Box::pin(async move {
            let (client, connection) = Self::connect(self, &config).await?;
            let driver = tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::warn!(error = %PostgresError::from(error), "a connection to PostgreSQL ended");
                }
            });
            Ok((client, driver))
        })
    }
}

/// Who judges the certificates of servers.
fn verifier(
    encryption: &Encryption,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, PostgresError> {
    Ok(match encryption {
        Encryption::Disabled | Encryption::Preferred | Encryption::Required => {
            Arc::new(Unnamed::of_anybody(provider))
        }
        Encryption::Authority(file) => {
            Arc::new(Unnamed::of(provider, roots(&Authorities::File(file.clone()))?))
        }
        Encryption::Name(authorities) => {
            let verifier = WebPkiServerVerifier::builder_with_provider(
                Arc::new(roots(authorities)?),
                Arc::clone(provider),
            );
            verifier
                .build()
                .map_err(|_| PostgresError::of(PostgresErrorKind::Tls, "TLS cannot be set up"))?
        }
    })
}

fn roots(authorities: &Authorities) -> Result<RootCertStore, PostgresError> {
    let unusable = |why: String| PostgresError::of(PostgresErrorKind::Tls, &format!("sslrootcert: {why}"));
    let mut roots = RootCertStore::empty();
    match authorities {
        Authorities::System => {
            // A certificate that cannot be read is none of those that are needed, or the connection will say so.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        Authorities::File(file) => {
            let shown = file.display();
            let certificates = CertificateDer::pem_file_iter(file)
                .map_err(|error| unusable(format!("{shown} cannot be read: {error}")))?;
            for certificate in certificates {
                let certificate =
                    certificate.map_err(|error| unusable(format!("{shown} is not in PEM: {error}")))?;
                roots.add(certificate).map_err(|error| {
                    unusable(format!("{shown} has a certificate of no authority: {error}"))
                })?;
            }
        }
    }
    if roots.is_empty() {
        return Err(unusable("no certificate of an authority was found".to_owned()));
    }
    Ok(roots)
}

/// One attempt to connect, to one host after the other.
struct Attempt {
    tls: TlsConnector,
    last: Arc<Mutex<Last>>,
}

/// The host that was tried last, which is the one that was connected to, if any was.
#[derive(Default)]
struct Last {
    host: String,
    encrypted: bool,
}

impl MakeTlsConnect<Socket> for Attempt {
    type Stream = Encrypted;
    type TlsConnect = ToHost;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<ToHost> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Last {
            host: host.to_owned(),
            encrypted: false,
        };
        Ok(ToHost {
            tls: self.tls.clone(),
            host: host.to_owned(),
            last: Arc::clone(&self.last),
        })
    }
}

/// The handshake with one host.
struct ToHost {
    tls: TlsConnector,
    host: String,
    last: Arc<Mutex<Last>>,
}

impl TlsConnect<Socket> for ToHost {
    type Stream = Encrypted;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Encrypted>> + Send>>;

    fn connect(self, stream: Socket) -> Self::Future {
        Box::pin(async move {
            let name = ServerName::try_from(self.host)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
            let stream = self.tls.connect(name, stream).await?;
            self.last.lock().unwrap_or_else(PoisonError::into_inner).encrypted = true;
            Ok(Encrypted(stream))
        })
    }
}

/// An encrypted connection.
pub(super) struct Encrypted(tokio_rustls::client::TlsStream<Socket>);

impl TlsStream for Encrypted {
    fn channel_binding(&self) -> ChannelBinding {
        let (_, session) = self.0.get_ref();
        let certificate = session.peer_certificates().and_then(|chain| chain.first());
        certificate
            .and_then(|certificate| end_point(certificate))
            .map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, into)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
