//! The files that give access: certificate authority, server certificate, bearer token, kubeconfig. Each is written whole or not at all.

use super::ServeError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the server shows and what it asks for.
pub(super) struct Credentials {
    dir: PathBuf,
    ca: String,
    certificate: String,
    key: String,
    pub token: String,
}

impl Credentials {
    /// Reads the files of an earlier start, or makes them. A set that is not complete, or whose certificate does not name all of
    /// these addresses, is made anew.
    pub fn load_or_make(dir: &Path, addresses: &[String]) -> Result<Self, ServeError> {
        let failed = |source| ServeError::File { path: dir.to_owned(), source };
        crate::store::db::private_directory(dir).map_err(failed)?;
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).ok().filter(|text| !text.trim().is_empty());
        let token = match read("token") {
            Some(token) => token.trim().to_owned(),
            None => {
                let token = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
                write_private(&dir.join("token"), &token)?;
                token
            }
        };
        // The key of the authority is not kept, so that another name takes another authority.
        let known: Vec<String> = read("server.names").unwrap_or_default().lines().map(str::to_owned).collect();
        let named = addresses.iter().all(|a| known.contains(a));
        if let (Some(ca), Some(certificate), Some(key)) = (read("ca.crt"), read("server.crt"), read("server.key")) {
            let loaded = Self { dir: dir.to_owned(), ca, certificate, key, token: token.clone() };
            let usable = loaded.tls().is_ok();
            if usable && named {
                return Ok(loaded);
            }
            let why = if usable { "does not name the address in use" } else { "cannot be used" };
            tracing::warn!(
                "the stored certificate {why}; a new one is made: copies of the kubeconfig must be made again"
            );
        }
        let mut names = known;
        names.extend(addresses.iter().filter(|a| !names.contains(a)).cloned().collect::<Vec<_>>());
        let (ca, certificate, key) = make(&names).map_err(|e| ServeError::Certificate(e.to_string()))?;
        let list = names.join("\n");
        for (name, text) in
            [("server.names", &list), ("server.key", &key), ("server.crt", &certificate), ("ca.crt", &ca)]
        {
            write_private(&dir.join(name), text)?;
        }
        Ok(Self { dir: dir.to_owned(), ca, certificate, key, token })
    }

    /// The certificate authority, in PEM.
    pub fn authority(&self) -> &str {
        &self.ca
    }

    pub fn tls(&self) -> Result<rustls::ServerConfig, ServeError> {
        let failed = |e: &dyn std::fmt::Display| ServeError::Certificate(e.to_string());
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| failed(&e))?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|e| failed(&e))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| failed(&e))?;
        let mut config = builder.with_no_client_auth().with_single_cert(chain, key).map_err(|e| failed(&e))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// Writes a kubeconfig for a server at this address.
    pub fn write_kubeconfig(&self, name: &str, address: SocketAddr) -> Result<PathBuf, ServeError> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "multihome", "cluster": {"server": format!("https://{address}"), "certificate-authority-data": STANDARD.encode(&self.ca)}}],
            "users": [{"name": "multihome", "user": {"token": self.token}}],
            "contexts": [{"name": "multihome", "context": {"cluster": "multihome", "user": "multihome", "namespace": "default"}}],
            "current-context": "multihome",
        });
        let path = self.dir.join(name);
        let text = serde_saphyr::to_string(&config)
            .map_err(|e| ServeError::File { path: path.clone(), source: std::io::Error::other(e) })?;
        write_private(&path, &text)?;
        Ok(path)
    }
}

/// A certificate authority of this server's own, whose key is forgotten at once, and the server's certificate by it.
fn make(addresses: &[String]) -> Result<(String, String, String), rcgen::Error> {
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.distinguished_name.push(DnType::CommonName, "multihome-ca");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    ca.not_before = date_time_ymd(2020, 1, 1);
    ca.not_after = date_time_ymd(2099, 12, 31);
    let ca_key = KeyPair::generate()?;
    let ca_certificate = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);

    let near = ["localhost", "127.0.0.1", "::1"].map(String::from);
    let mut server = CertificateParams::new(near.iter().chain(addresses).cloned().collect::<Vec<_>>())?;
    server.distinguished_name.push(DnType::CommonName, "multihome");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.use_authority_key_identifier_extension = true;
    server.not_before = date_time_ymd(2020, 1, 1);
    server.not_after = date_time_ymd(2099, 12, 31);
    let key = KeyPair::generate()?;
    let certificate = server.signed_by(&key, &issuer)?;
    Ok((ca_certificate.pem(), certificate.pem(), key.serialize_pem()))
}

/// Replaces a file by one that only its owner can read; after a crash it is the old or the new one.
fn write_private(path: &Path, text: &str) -> Result<(), ServeError> {
    let attempt = || {
        let fresh = path.with_extension(format!("{}.new", std::process::id()));
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)?;
        path.parent().map_or(Ok(()), |dir| std::fs::File::open(dir)?.sync_all())
    };
    attempt().map_err(|source| ServeError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn made_once_and_private() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("data");
        let first = Credentials::load_or_make(&dir, &[]).unwrap();
        let second = Credentials::load_or_make(&dir, &[]).unwrap();
        assert_eq!((&first.token, &first.certificate), (&second.token, &second.certificate));
        assert!(first.token.len() >= 64);
        second.write_kubeconfig("kubeconfig", "127.0.0.1:7443".parse().unwrap()).unwrap();
        for entry in std::fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        }
        std::fs::write(dir.join("server.key"), "garbage").unwrap();
        assert_ne!(Credentials::load_or_make(&dir, &[]).unwrap().certificate, first.certificate);
    }

    #[test]
    fn another_address_takes_another_certificate() {
        let base = tempfile::tempdir().unwrap();
        let load = |addresses: &[&str]| {
            let list: Vec<String> = addresses.iter().map(|a| (*a).to_owned()).collect();
            Credentials::load_or_make(base.path(), &list).unwrap().certificate
        };
        let near = load(&[]);
        let far = load(&["192.0.2.1"]);
        assert_ne!(near, far);
        assert_eq!(far, load(&[]), "what it named it names still");
        assert_eq!(far, load(&["192.0.2.1"]));
        assert_ne!(far, load(&["192.0.2.1", "2001:db8::1"]));
    }
}
