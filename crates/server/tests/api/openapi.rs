//! The document and the routes are the same thing, and the committed document is both.

use std::path::Path;

use larder_wire::ProblemType;
use reqwest::Method;
use serde_json::Value;

use crate::support::{Answer, TestServer};

#[test]
fn the_committed_document_is_the_one_that_is_served() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    let mut served = larder_server::openapi().to_pretty_json().unwrap();
    served.push('\n');
    if std::env::var_os("LARDER_UPDATE_OPENAPI").is_some() {
        std::fs::write(&path, &served).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == served,
        "openapi.json is out of date: run `LARDER_UPDATE_OPENAPI=1 cargo test -p larder-server openapi` and look at \
         the difference: it is a change of the API"
    );
}

/// Every operation of the document: method, path with its parameters filled in, and whether it needs a session.
async fn operations(server: &TestServer) -> Vec<(Method, String, bool)> {
    let document: Value = server.http.get("/openapi.json").await.ok();
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let path = path
            .replace("{epoch}", "0")
            .replace("{user}", "nobody")
            .replace("{device}", "none")
            .replace("{gid}", "AAAA")
            .replace("{ref}", "AAAA")
            .replace("{id}", "none");
        assert!(!path.contains('{'), "a parameter without a value: {path}");
        for (method, operation) in methods.as_object().unwrap() {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            operations.push((method, path.clone(), operation.get("security").is_some()));
        }
    }
    operations
}

#[tokio::test]
async fn every_documented_operation_is_routed_and_asks_for_a_session_where_it_says_so() {
    let server = TestServer::start().await;
    let operations = operations(&server).await;
    assert!(operations.len() > 20);
    for (method, path, needs_session) in operations {
        let answer = Answer::to(server.http.request(method.clone(), &path)).await;
        if needs_session {
            answer.refused(ProblemType::Unauthenticated);
        } else if method == Method::GET {
            assert_eq!(answer.status, 200, "{method} {path}");
        } else {
            // Routed: what is missing is the body.
            answer.refused(ProblemType::UnsupportedMediaType);
        }
    }
}

#[tokio::test]
async fn every_operation_under_v1_but_registration_and_sessions_asks_for_a_session() {
    let server = TestServer::start().await;
    let open: Vec<String> = operations(&server)
        .await
        .into_iter()
        .filter(|(_, path, needs_session)| path.starts_with("/v1/") && !needs_session)
        .map(|(_, path, _)| path)
        .collect();
    assert_eq!(open, ["/v1/accounts", "/v1/sessions", "/v1/sessions/challenge"]);
}

#[tokio::test]
async fn an_unknown_path_and_a_wrong_method_get_the_same_problem() {
    let server = TestServer::start().await;
    let unknown = server.http.get("/v1/nothing").await;
    unknown.refused(ProblemType::NotFound);
    let wrong_method = Answer::to(server.http.request(Method::PUT, "/v1/inbox/next")).await;
    wrong_method.refused(ProblemType::NotFound);
    assert_eq!(unknown.body, wrong_method.body);
}
