use std::net::IpAddr;

use larder_wire::{MessageResult, MessagesSent, Problem, ProblemType, Sent};
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A plain HTTP client for one server, perhaps with a session.
#[derive(Clone)]
pub(crate) struct Http {
    client: reqwest::Client,
    base: String,
    pub(crate) token: Option<String>,
    state: Option<String>,
    headers: HeaderMap,
}

impl Http {
    pub(crate) fn new(address: &str) -> Self {
        Self::from(address, None)
    }

    /// The same from another of this machine's addresses.
    pub(crate) fn at(address: &str, own: IpAddr) -> Self {
        Self::from(address, Some(own))
    }

    fn from(address: &str, own: Option<IpAddr>) -> Self {
        // The client demands a TLS provider although the tests speak plain HTTP; a second installation is refused.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .no_proxy()
            .local_address(own)
            .build()
            .expect("an HTTP client");
        Self {
            client,
            base: format!("http://{address}"),
            token: None,
            state: None,
            headers: HeaderMap::new(),
        }
    }

    /// The same server, with this session.
    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    /// The same, with these headers of one name besides.
    pub(crate) fn with_headers(&self, name: &'static str, values: &[&str]) -> Self {
        let mut with = self.clone();
        for value in values {
            with.headers.append(name, value.parse().expect("a header"));
        }
        with
    }

    /// The same session, with this `Larder-State`.
    pub(crate) fn with_state(&self, claim: &str) -> Self {
        Self {
            state: Some(claim.to_owned()),
            ..self.clone()
        }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        let request = request.headers(self.headers.clone());
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        match &self.state {
            Some(claim) => request.header("Larder-State", claim),
            None => request,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::to(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &impl Serialize) -> Answer {
        Answer::to(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn post_with_key(&self, path: &str, key: &str, body: &impl Serialize) -> Answer {
        let request = self.request(Method::POST, path).header("Idempotency-Key", key);
        Answer::to(request.json(body)).await
    }
}

/// What the server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: Option<String>,
    /// In seconds.
    pub(crate) retry_after: Option<u64>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) async fn to(request: RequestBuilder) -> Self {
        let response = request.send().await.expect("the server answers");
        let content_type = response
            .headers()
            .get("content-type")
            .map(|value| value.to_str().expect("ASCII").to_owned());
        let retry_after = response.headers().get("retry-after");
        let retry_after = retry_after.map(|value| value.to_str().expect("ASCII").parse().expect("seconds"));
        Self {
            retry_after,
            status: response.status().as_u16(),
            content_type,
            body: response.bytes().await.expect("a whole body").to_vec(),
        }
    }

    /// What became of the only message of a request, as if that were the answer to the whole.
    pub(crate) fn of_one_message(self) -> Self {
        if self.status != 200 {
            return self;
        }
        let MessagesSent { results } = self.ok();
        match <[MessageResult; 1]>::try_from(results).expect("one result") {
            [MessageResult::Accepted { seq }] => Self {
                body: serde_json::to_vec(&Sent { seq }).expect("JSON"),
                ..self
            },
            [MessageResult::Refused { problem }] => Self {
                status: problem.status,
                content_type: Some("application/problem+json".to_owned()),
                retry_after: None,
                body: serde_json::to_vec(&problem).expect("JSON"),
            },
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body of a success.
    #[track_caller]
    pub(crate) fn ok<T: DeserializeOwned>(&self) -> T {
        assert!(
            matches!(self.status, 200 | 201),
            "{} {}",
            self.status,
            self.text()
        );
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// A success without a body.
    #[track_caller]
    pub(crate) fn done(&self) {
        assert_eq!(self.status, 204, "{}", self.text());
    }

    /// The problem of a refusal, which must be of this type.
    #[track_caller]
    pub(crate) fn refused(&self, expected: ProblemType) -> Problem {
        assert_eq!(
            self.content_type.as_deref(),
            Some("application/problem+json"),
            "{} {}",
            self.status,
            self.text()
        );
        let problem: Problem =
            serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()));
        assert_eq!(problem.problem_type, expected, "{problem}");
        assert_eq!(
            (problem.status, self.status),
            (expected.status(), expected.status())
        );
        assert_eq!(&*problem.title, expected.title());
        problem
    }
}
