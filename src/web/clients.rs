//! Certificates of clients: who must show one, whose they must be, and what name they must have.

use std::{net::IpAddr, sync::Arc};

use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use x509_cert::{
    Certificate,
    der::Decode,
    ext::pkix::{SubjectAltName, name::GeneralName},
};

use super::tls::{ClientAuth, Named, certificates};

/// What asks clients for certificates, if anything does; the error is a sentence.
pub fn verifier(
    auth: ClientAuth,
    client_ca: Option<Named>,
    allowed: Option<Vec<String>>,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
    let mandatory = matches!(auth, ClientAuth::RequireAny | ClientAuth::RequireAndVerify);
    if allowed.is_some() && !mandatory {
        return Err("client_allowed_sans requires client_auth_type to be RequireAnyClientCert or RequireAndVerifyClientCert: write one of them".into());
    }
    if allowed.as_ref().is_some_and(Vec::is_empty) {
        return Err(
            "client_allowed_sans is empty, so that nobody gets in: name a client, or leave it out".into()
        );
    }
    let verifies = matches!(auth, ClientAuth::VerifyIfGiven | ClientAuth::RequireAndVerify);
    let chain = match (auth, client_ca) {
        (ClientAuth::None, Some(_)) => {
            return Err(
                "client CA's have been configured without a Client Auth Policy: write client_auth_type"
                    .into(),
            );
        }
        (ClientAuth::None, None) => return Ok(None),
        (_, None) if verifies => {
            return Err("client_auth_type verifies certificates, but not by whose: add client_ca_file".into());
        }
        (_, Some(ca)) if verifies => Some(chain(&ca, provider)?),
        (_, ca) => {
            // Whoever made it, it should be one.
            ca.as_ref().map(certificates).transpose()?;
            None
        }
    };
    Ok(Some(Arc::new(ClientCheck { chain, mandatory, allowed, provider: provider.clone() })))
}

fn chain(ca: &Named, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let broken =
        |error| format!("{} cannot be used ({error}): give certificates of authorities in PEM", ca.0);
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(|error| broken(error.to_string()))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    builder.build().map(|verifier| verifier as _).map_err(|error| broken(error.to_string()))
}

/// What a client's certificate has to be.
#[derive(Debug)]
struct ClientCheck {
    /// From an authority; nothing if from anybody.
    chain: Option<Arc<dyn ClientCertVerifier>>,
    mandatory: bool,
    /// With one of these names; nothing if with any.
    allowed: Option<Vec<String>>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for ClientCheck {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.as_ref().map_or(&[], |chain| chain.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if let Some(chain) = &self.chain {
            chain.verify_client_cert(end_entity, intermediates, now)?;
        }
        if let Some(allowed) = &self.allowed
            && !names(end_entity)?.iter().any(|name| allowed.contains(name))
        {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The alternative names of a certificate's subject: DNS, mail, IP and URI. webpki tells only some of them.
fn names(certificate: &CertificateDer<'_>) -> Result<Vec<String>, Error> {
    let broken = |_| Error::InvalidCertificate(CertificateError::BadEncoding);
    let certificate = Certificate::from_der(certificate).map_err(broken)?;
    let found = certificate.tbs_certificate().get_extension::<SubjectAltName>().map_err(broken)?;
    let name = |name: GeneralName| match name {
        GeneralName::DnsName(name)
        | GeneralName::Rfc822Name(name)
        | GeneralName::UniformResourceIdentifier(name) => Some(name.as_str().to_owned()),
        GeneralName::IpAddress(address) => {
            let address = address.as_bytes();
            let four = <[u8; 4]>::try_from(address).map(IpAddr::from);
            four.or_else(|_| <[u8; 16]>::try_from(address).map(IpAddr::from)).ok().map(|ip| ip.to_string())
        }
        _ => None,
    };
    Ok(found.map_or_else(Vec::new, |(_, names)| names.0.into_iter().filter_map(name).collect()))
}
