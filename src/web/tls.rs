//! `tls_server_config` to what a handshake needs.

use std::sync::Arc;

use serde::Deserialize;
use tokio_rustls::rustls::{
    self, CipherSuite, Error, NamedGroup, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{self, CryptoProvider, SupportedKxGroup},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    version::{TLS12, TLS13},
};

use super::{clients, config::TlsSection};

/// What handshakes are made by.
pub type Tls = Arc<ServerConfig>;

/// Who must show a certificate, in Go's words.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(try_from = "String")]
pub enum ClientAuth {
    /// Nobody is asked for one.
    #[default]
    None,
    /// Everybody is asked, and any certificate will do, as will none.
    Request,
    /// Everybody must show one, and any will do.
    RequireAny,
    /// Who shows one must have it from `client_ca`.
    VerifyIfGiven,
    /// Everybody must show one that is from `client_ca`.
    RequireAndVerify,
}

impl TryFrom<String> for ClientAuth {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.as_str() {
            "" | "NoClientCert" => Ok(Self::None),
            "RequestClientCert" => Ok(Self::Request),
            "RequireAnyClientCert" | "RequireClientCert" => Ok(Self::RequireAny),
            "VerifyClientCertIfGiven" => Ok(Self::VerifyIfGiven),
            "RequireAndVerifyClientCert" => Ok(Self::RequireAndVerify),
            _ => Err(format!(
                "client_auth_type is \"{text}\": write NoClientCert, RequestClientCert, RequireAnyClientCert, VerifyClientCertIfGiven or RequireAndVerifyClientCert"
            )),
        }
    }
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
#[serde(try_from = "String")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Version {
    Tls12,
    Tls13,
}

impl TryFrom<String> for Version {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.as_str() {
            "TLS12" => Ok(Self::Tls12),
            "TLS13" => Ok(Self::Tls13),
            "TLS10" | "TLS11" => Err(format!(
                "{text} is not safe any more and not spoken here: write TLS12 or TLS13, or leave it out"
            )),
            _ => Err(format!("unknown TLS version \"{text}\": write TLS12 or TLS13")),
        }
    }
}

/// A cipher suite.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Suite(CipherSuite);

impl TryFrom<String> for Suite {
    type Error = String;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        let suites = crypto::ring::ALL_CIPHER_SUITES.iter().map(SupportedCipherSuite::suite);
        let found = suites.clone().find(|suite| go_name(*suite) == name);
        found.map(Self).ok_or_else(|| {
            let names: Vec<String> = suites.map(go_name).collect();
            format!("the cipher suite \"{name}\" is not spoken here: write some of {}", names.join(", "))
        })
    }
}

/// The name in Go; those of TLS 1.3 have no prefix of their own there.
fn go_name(suite: CipherSuite) -> String {
    format!("{suite:?}").replacen("TLS13_", "TLS_", 1)
}

/// A group for the exchange of keys.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Curve(NamedGroup);

impl TryFrom<String> for Curve {
    type Error = String;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        match name.as_str() {
            "X25519" => Ok(Self(NamedGroup::X25519)),
            "CurveP256" => Ok(Self(NamedGroup::secp256r1)),
            "CurveP384" => Ok(Self(NamedGroup::secp384r1)),
            _ => Err(format!(
                "the curve \"{name}\" is not spoken here: write some of X25519, CurveP256, CurveP384"
            )),
        }
    }
}

/// A text and what to call it.
pub type Named = (String, Vec<u8>);

/// Nothing if no field says that there is to be TLS. `read` reads a file that is named; the error is a sentence.
pub fn build(
    section: TlsSection,
    read: &mut dyn FnMut(&str) -> Result<Vec<u8>, String>,
) -> Result<Option<Tls>, String> {
    let auth = section.client_auth_type.unwrap_or_default();
    let allowed = section.client_allowed_sans;
    let mut given = |name, file, text| text_of(name, file, text, &mut *read);
    let cert = given("cert", section.cert_file, section.cert)?;
    let key = given("key", section.key_file, section.key)?;
    let client_ca = given("client_ca", section.client_ca_file, section.client_ca)?;
    let (cert, key) = match (cert, key) {
        (Some(cert), Some(key)) => (cert, key),
        (None, None) if auth == ClientAuth::None && client_ca.is_none() => {
            // Who names clients does not mean everybody.
            let harmless = allowed.is_none();
            return harmless.then_some(None).ok_or_else(|| {
                "client_allowed_sans without TLS lets everybody in: add cert_file and key_file".into()
            });
        }
        (None, _) => {
            return Err("missing one of cert or cert_file: add it, or leave tls_server_config out".into());
        }
        (_, None) => {
            return Err("missing one of key or key_file: add it, or leave tls_server_config out".into());
        }
    };
    let provider = Arc::new(provider(section.cipher_suites, section.curve_preferences));
    let verifier = clients::verifier(auth, client_ca, allowed, &provider)?;
    let versions = versions(section.min_version, section.max_version)?;
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&versions);
    let builder = builder.map_err(|_| {
        "cipher_suites has none for the versions that min_version and max_version allow: add one".to_owned()
    })?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let built = builder.with_single_cert(certificates(&cert)?, private_key(&key)?);
    let mut config = built.map_err(|error| unusable(&cert.0, &key.0, &error))?;
    config.ignore_client_order = section.prefer_server_cipher_suites.unwrap_or(true);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Each client is looked at anew: a session of before would outlive a change of client_ca.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Some(Arc::new(config)))
}

/// Of both, the file counts.
fn text_of(
    name: &str,
    file: Option<String>,
    text: Option<String>,
    read: &mut dyn FnMut(&str) -> Result<Vec<u8>, String>,
) -> Result<Option<Named>, String> {
    let Some(file) = file.filter(|file| !file.is_empty()) else {
        let text = text.filter(|text| !text.is_empty());
        return Ok(text.map(|text| (name.to_owned(), text.into_bytes())));
    };
    let text = read(&file).map_err(|error| {
        format!("{name}_file {file} cannot be read ({error}): correct its name or its permissions")
    })?;
    Ok(Some((format!("{name}_file {file}"), text)))
}

fn unusable(cert: &str, key: &str, error: &Error) -> String {
    match error {
        Error::InconsistentKeys(_) => {
            format!("{cert} and {key} do not belong together: give the key that the certificate was made for")
        }
        Error::InvalidCertificate(error) => format!(
            "{cert} is no certificate that clients would take ({error}): make one of X.509 version 3 with a subjectAltName"
        ),
        error => format!(
            "{cert} and {key} cannot be used ({error}): give a certificate with a key of RSA 2048 to 8192, ECDSA P-256 or P-384, or Ed25519"
        ),
    }
}

fn provider(suites: Option<Vec<Suite>>, curves: Option<Vec<Curve>>) -> CryptoProvider {
    let mut provider = crypto::ring::default_provider();
    let suites = suites.unwrap_or_default();
    if !suites.is_empty() {
        // As in Go, those of TLS 1.3 cannot be left out.
        provider.cipher_suites.retain(|suite| {
            suite.tls13().is_some() || suites.iter().any(|Suite(wanted)| *wanted == suite.suite())
        });
    }
    let curves = curves.unwrap_or_default();
    if !curves.is_empty() {
        let group = |Curve(wanted): &Curve| {
            let all: &[&'static dyn SupportedKxGroup] = crypto::ring::ALL_KX_GROUPS;
            all.iter().copied().find(|group| group.name() == *wanted)
        };
        provider.kx_groups = curves.iter().filter_map(group).collect();
    }
    provider
}

fn versions(
    min: Option<Version>,
    max: Option<Version>,
) -> Result<Vec<&'static SupportedProtocolVersion>, String> {
    let range = min.unwrap_or(Version::Tls12)..=max.unwrap_or(Version::Tls13);
    if range.is_empty() {
        return Err("min_version is above max_version: leave one of them out".to_owned());
    }
    let all = [(Version::Tls13, &TLS13), (Version::Tls12, &TLS12)];
    Ok(all.into_iter().filter(|(version, _)| range.contains(version)).map(|(_, version)| version).collect())
}

/// The certificates in a PEM; the error is a sentence.
pub fn certificates((name, text): &Named) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match read {
        Ok(certificates) if certificates.is_empty() => {
            Err(format!("{name} has no certificate: give one in PEM, with its chain"))
        }
        Ok(certificates) => Ok(certificates),
        // The error has a whole line, and if the lines have run together that is the key as well.
        Err(_) => Err(format!(
            "{name} is broken: give a certificate in PEM, with its chain and with its line breaks"
        )),
    }
}

fn private_key((name, text): &Named) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(text).map_err(|_| {
        format!("{name} has no private key that can be read: give it in PEM, without a passphrase")
    })
}
