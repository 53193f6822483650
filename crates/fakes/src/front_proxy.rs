//! By whom servers of the aggregation layer know the API server: a certificate authority and a certificate of its.

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

/// Who the API server is when it asks for others.
const NAME: &str = "front-proxy-client";

/// An authority, and a certificate that it signed, in PEM.
pub struct FrontProxy {
    /// The authority.
    pub authority: String,
    /// The API server's certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl FrontProxy {
    /// A new one.
    ///
    /// # Panics
    /// When no certificate can be made.
    pub fn new() -> FrontProxy {
        let authority_key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names are no problem");
        params.distinguished_name.push(DnType::CommonName, "front-proxy-ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&authority_key).expect("a certificate").pem();
        let issuer = Issuer::new(params, authority_key);

        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names are no problem");
        params.distinguished_name.push(DnType::CommonName, NAME);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &issuer).expect("a certificate").pem();
        FrontProxy { authority, certificate, key: key.serialize_pem() }
    }

    /// The ConfigMap in which a cluster tells of it.
    pub fn config(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
            "data": {
                "requestheader-client-ca-file": self.authority,
                "requestheader-allowed-names": json!([NAME]).to_string(),
                "requestheader-username-headers": "[\"X-Remote-User\"]",
                "requestheader-group-headers": "[\"X-Remote-Group\"]",
                "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
            },
        })
    }
}

impl Default for FrontProxy {
    fn default() -> Self {
        FrontProxy::new()
    }
}
