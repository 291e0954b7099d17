//! Tests of the token files of the admin listener.

use super::*;

#[test]
fn unusable_token_file_is_an_error_at_its_key() {
    let files = Files::new(&[]);
    files.write("gateway.yaml", &format!("{MAIN}admin: {{ address: \"127.0.0.1:0\", tokenFile: token }}\n"));
    for token in [None, Some("short"), Some(&*"x".repeat(5_000))] {
        token.iter().for_each(|token| files.write("token", token));
        let found = check(&files.path("gateway.yaml"));
        let first = found.iter().next().unwrap();
        assert_eq!((first.place.line, first.place.column), (8, 45), "{found}");
        assert!(first.message.contains("admin token file"), "{found}");
        assert!(files.start_with(BrokenTenants::Skip).is_err());
    }
    files.write("token", "0123456789abcdef\n");
    assert!(!check(&files.path("gateway.yaml")).has_errors());
    let reloader = files.start();
    fs::remove_file(files.path("token")).unwrap();
    assert!(reloader.reload_now().is_ok(), "a token file of the start is required again");
}

#[test]
fn c4_read_token_equal_to_full_token_is_refused() {
    let files = Files::new(&[]);
    let admin = "admin: { address: \"127.0.0.1:0\", tokenFile: token, readTokenFile: read }\n";
    files.write("gateway.yaml", &format!("{MAIN}{admin}"));
    files.write("token", "0123456789abcdef\n");
    for (token, expected) in [
        (None, "cannot read the admin token file"),
        (Some("short"), "invalid token in the admin token file"),
        (Some(" 0123456789abcdef"), "contains the same token as tokenFile"),
    ] {
        token.iter().for_each(|token| files.write("read", token));
        let found = check(&files.path("gateway.yaml"));
        let first =
            found.iter().find(|found| found.severity == crossgate_config::diagnostics::Severity::Error).unwrap();
        assert_eq!((first.place.line, first.place.column), (8, 67), "{found}");
        assert!(first.message.contains(expected), "{found}");
        assert!(files.start_with(BrokenTenants::Skip).is_err());
    }
    files.write("read", "fedcba9876543210\n");
    assert!(!check(&files.path("gateway.yaml")).has_errors());
    let reloader = files.start();
    fs::remove_file(files.path("token")).unwrap();
    fs::remove_file(files.path("read")).unwrap();
    assert!(reloader.reload_now().is_ok(), "token files of the start are required again");
}

#[test]
fn changed_token_file_replaces_the_admin_token() {
    let files = Files::new(&[]);
    let main =
        |full: &str| format!("{MAIN}admin: {{ address: \"127.0.0.1:0\", tokenFile: {full}, readTokenFile: read }}\n");
    files.write("gateway.yaml", &main("token"));
    let [first, second, reading] = ["0123456789abcdef", "aaaaaaaaaaaaaaaa", "fedcba9876543210"];
    files.write("token", first);
    files.write("read", reading);
    let reloader = files.start();
    let in_force = || {
        let tokens = reloader.admin_tokens().current();
        tokens.each().map(|token| String::from_utf8(token.to_vec()).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(in_force(), [first, reading]);
    files.replace("token", second);
    wait_for("the new token", || in_force() == [second, reading]);
    assert_eq!(reloader.status().generation, 1, "a changed token made a new generation");
    // An invalid token, or one equal to the read token, refuses the load; the old token stays.
    for bad in ["short", reading] {
        files.replace("token", bad);
        assert!(reloader.reload_now().unwrap_err().iter().any(|found| found.message.contains("token")));
        assert_eq!(in_force(), [second, reading]);
    }
    // The token of a removed file stays valid.
    fs::remove_file(files.path("token")).unwrap();
    assert!(reloader.reload_now().is_ok());
    assert_eq!(in_force(), [second, reading]);
    // A leaked token is replaced despite a mistake in the main file.
    files.replace("gateway.yaml", &format!("{}colour: red\n", main("token")));
    files.write("token", first);
    assert!(reloader.reload_now().is_err());
    assert_eq!(in_force(), [first, reading]);
    files.replace("token", second);
    wait_for("the new token", || in_force() == [second, reading]);
    // Another token file applies at the next start.
    files.write("other", first);
    files.replace("gateway.yaml", &main("other"));
    assert_eq!(reloader.reload_now().unwrap().restart_needed, ["admin"]);
    assert_eq!(in_force(), [second, reading]);
    files.replace("token", "cccccccccccccccc");
    wait_for("the new token", || in_force() == ["cccccccccccccccc", reading]);
}

#[test]
fn missing_token_file_is_loaded_once_it_exists() {
    let files = Files::new(&[]);
    let reloader = files.start();
    files.replace("gateway.yaml", &format!("{MAIN}admin: {{ address: \"127.0.0.1:0\", tokenFile: token }}\n"));
    wait_for("the missing token", || reloader.status().failures_total == 1);
    files.write("token", "0123456789abcdef\n");
    wait_for("the token", || reloader.status().restart_needed == ["admin"]);
}
