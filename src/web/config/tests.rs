use super::*;

/// What becomes of a file that says so.
fn check(text: &str) -> Result<WebConfig, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("web.yml");
    fs::write(&file, text).expect("a file");
    let place = format!("{}/", folder.path().display());
    read(&file, &mut Texts::new()).map_err(|error| error.replace(&place, ""))
}

const HASH: &str = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG";

#[test]
fn says_what_is_wrong_and_where() {
    for (text, error) in [
        (
            "tls_server_config:\n  cert: x\n  keys: y\n",
            "web.yml, line 3: there is no \"keys\": write one of cert, cert_file, key, key_file, client_ca, client_ca_file, client_auth_type, client_allowed_sans, min_version, max_version, cipher_suites, curve_preferences, prefer_server_cipher_suites",
        ),
        (
            "# old\ntls_server_config:\n  min_version: TLS10\n",
            "web.yml, line 3: TLS10 is not safe any more and not spoken here: write TLS12 or TLS13, or leave it out",
        ),
        (
            "tls_server_config:\n  curve_preferences:\n  - X25519\n  - CurveP521\n",
            "web.yml, line 4: the curve \"CurveP521\" is not spoken here: write some of X25519, CurveP256, CurveP384",
        ),
        (
            "basic_auth_users: {}\nbasic_auth_users: {}\n",
            "web.yml, line 2: basic_auth_users is there twice: remove one",
        ),
        (
            "basic_auth_users:\n  alice: secret\n",
            "web.yml, line 2: a value of basic_auth_users is no bcrypt hash: make one with `htpasswd -nBC 10 \"\" | tr -d ':\\n'`",
        ),
        (
            "tls_server_config: {key_file: key.pem}",
            "web.yml: key_file key.pem cannot be read (No such file or directory (os error 2)): correct its name or its permissions",
        ),
        (
            "http_server_config: {headers: {X-Frame-Options: allow}}",
            "web.yml: X-Frame-Options is \"allow\": write deny or sameorigin",
        ),
        (
            "http_server_config: [",
            "web.yml, line 1: this cannot be understood (expected mapping start): write it as in the example in docs/install.md",
        ),
        (
            "rate_limit: {interval: 1s}",
            "web.yml: rate_limit.interval without a rate_limit.burst lets no request through: write how many at once",
        ),
        (
            "rate_limit: {interval: soon}",
            "web.yml, line 1: rate_limit.interval is no length of time: write it as 1s, 100ms or 1m30s",
        ),
        (
            "rate_limit: {interval: -1s}",
            "web.yml, line 1: rate_limit.interval is no length of time: write it as 1s, 100ms or 1m30s",
        ),
    ] {
        assert_eq!(check(text).err().as_deref(), Some(error), "{text}");
    }
}

#[test]
fn says_what_is_missing() {
    for (text, error) in [
        (
            "tls_server_config: {client_auth_type: RequireAnyClientCert}",
            "web.yml: missing one of cert or cert_file: add it, or leave tls_server_config out",
        ),
        (
            "tls_server_config: {client_allowed_sans: [a]}",
            "web.yml: client_allowed_sans without TLS lets everybody in: add cert_file and key_file",
        ),
        (
            "tls_server_config: {cert: c, key: k}",
            "web.yml: cert has no certificate: give one in PEM, with its chain",
        ),
        // Its lines run together: what follows may be the key.
        (
            "tls_server_config:\n  cert: >\n    -----BEGIN CERTIFICATE-----\n    MII\n  key: k\n",
            "web.yml: cert is broken: give a certificate in PEM, with its chain and with its line breaks",
        ),
    ] {
        assert_eq!(check(text).err().as_deref(), Some(error), "{text}");
    }
}

#[test]
fn a_second_document_is_refused() {
    let error = check("---\n---\n{}\n").expect_err("two documents");
    assert_eq!(error, "web.yml, line 3: a second document begins: remove it");
}

#[test]
fn tells_no_secret() {
    for text in [
        "basic_auth_users: {alice: SECRET}",
        "basic_auth_users: {alice: [SECRET]}",
        "basic_auth_users:\n  alice: SECRET\n bob: SECRET",
        "tls_server_config: {key: SECRET, cert: SECRET}",
        "tls_server_config: {key: [SECRET]}",
        "tls_server_config: {prefer_server_cipher_suites: x}\nbasic_auth_users: {alice: SECRET}",
    ] {
        let error = check(text).expect_err(text);
        assert!(!error.contains("SECRET"), "{error}");
    }
}

#[test]
fn reads_what_is_said() {
    let text = format!(
        "http_server_config:\n  http2: no\n  headers:\n    X-Frame-Options: deny\n    Content-Security-Policy:\nbasic_auth_users:\n  a: {HASH}\nrate_limit: {{interval: 1m0.5s, burst: 7}}\n"
    );
    let config = check(&text).expect("it is good");
    assert!(config.tls.is_none());
    let mut headers: Vec<_> =
        config.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    headers.sort_unstable();
    assert_eq!(headers, [("content-security-policy", &b""[..]), ("x-frame-options", b"deny")]);
    assert_eq!(config.users, HashMap::from([("a".to_owned(), HASH.to_owned())]));
    assert_eq!(config.rate, Some(Rate { interval: Duration::from_millis(60_500), burst: 7 }));
    for nothing in [
        "",
        "# x\n",
        "tls_server_config:\n",
        "tls_server_config: {min_version: TLS13}",
        "rate_limit: {burst: 3}",
    ] {
        let config = check(nothing).expect(nothing);
        assert!(config.tls.is_none() && config.users.is_empty() && config.rate.is_none(), "{nothing}");
    }
}

#[test]
fn hashes_are_bcrypts() {
    let changed = |from: &str, to: &str| HASH.replacen(from, to, 1);
    for good in [
        HASH.to_owned(),
        changed("$2y", "$2a"),
        changed("$2y", "$2b"),
        changed("$10$", "$04$"),
        changed("$10$", "$16$"),
    ] {
        assert!(check(&format!("basic_auth_users: {{a: {good}}}")).is_ok(), "{good}");
    }
    for bad in [
        changed("$2y", "$1"),
        changed("$10$", "$03$"),
        changed("$10$", "$32$"),
        changed("$10$", "$17$"),
        changed("$10$", "$31$"),
        changed("$10$", "$1$"),
        changed("zG", "z"),
        format!("{HASH}x"),
        changed("X0h", "X!h"),
    ] {
        assert!(check(&format!("basic_auth_users: {{a: \"{bad}\"}}")).is_err(), "{bad}");
    }
}

#[test]
fn sees_what_changed() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("web.yml");
    fs::write(&file, "").expect("a file");
    let mut texts = Texts::new();
    read(&file, &mut texts).expect("it is good");
    assert!(unchanged(&texts));
    fs::write(&file, " ").expect("a file");
    assert!(!unchanged(&texts));
    fs::write(&file, "").expect("a file");
    assert!(unchanged(&texts));
    fs::remove_file(&file).expect("it is there");
    assert!(!unchanged(&texts));
    fs::create_dir(&file).expect("a folder");
    assert!(read(&file, &mut texts).expect_err("no file").contains("regular file"));
}

proptest::proptest! {
    #[test]
    fn no_file_breaks_it(text in "[a-z_:{}\\[\\]&*|>'\"!,\n -]{0,80}") {
        let _ = check(&text);
    }

    #[test]
    fn no_changed_file_breaks_it(at in 0_usize..400, byte: u8) {
        let mut text = format!("tls_server_config:\n  cert_file: a\n  cipher_suites: [TLS_AES_128_GCM_SHA256]\n  client_auth_type: RequestClientCert\nhttp_server_config:\n  headers:\n    X-Frame-Options: deny\nbasic_auth_users:\n  a: {HASH}\nrate_limit:\n  interval: 1s\n  burst: 1\n").into_bytes();
        let at = at % text.len();
        text[at] = byte;
        let _ = parse(&text);
    }
}
