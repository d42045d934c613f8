//! TLS for both kinds of connection: rustls, the server's certificate and name always verified.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::address::{Address, Tls};
use crate::problem::{Blame, Outcome, Problem};

/// The client's side of TLS, if the address asks for it: trusts the address's `sslrootcert`, or else the system's
/// authorities.
pub fn client_config(address: &Address) -> Outcome<Option<ClientConfig>> {
    if address.tls == Tls::Off {
        return Ok(None);
    }
    let refuse = |what: String| {
        Problem::refuse(Blame::Config, "TLS_ROOTS", what)
            .remedy("install the system's root certificates, or name a PEM file with sslrootcert=FILE in the address")
    };
    let mut roots = RootCertStore::empty();
    if let Some(file) = &address.root_certificate {
        let unreadable = |error| refuse(format!("cannot read the root certificates in {}: {error}", file.display()));
        for certificate in CertificateDer::pem_file_iter(file).map_err(unreadable)? {
            let certificate = certificate.map_err(unreadable)?;
            roots.add(certificate).map_err(|error| refuse(format!("{}: {error}", file.display())))?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if roots.is_empty() {
        return Err(refuse(format!("no root certificate to verify {} with", address.host)));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| refuse(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Some(config))
}
