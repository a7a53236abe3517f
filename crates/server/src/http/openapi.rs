//! The OpenAPI document. It is what the routes say about themselves, inside a frame.

use std::sync::LazyLock;

use larder_wire::{CommitCheck, KeyPackageCheck, Problem, ProblemType};
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{KnownFormat, Schema, SchemaFormat, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{ObjectBuilder, OpenApi, RefOr};
use utoipa::{Modify, OpenApi as _, PartialSchema, ToSchema};

/// The header of a [`larder_wire::StateClaim`], as it is written.
const STATE_HEADER_NAME: &str = "Larder-State";

/// The OpenAPI 3.1 document of the API.
pub fn openapi() -> OpenApi {
    let mut document = super::documented_routes().into_openapi();
    for path in document.paths.paths.values_mut() {
        for operation in [&mut path.post, &mut path.put, &mut path.delete] {
            operation.iter_mut().for_each(take_a_claim);
        }
    }
    document
}

/// A request of a device that changes something may, and at times must, say what state the device is in.
fn take_a_claim(operation: &mut Operation) {
    let parameters = operation.parameters.get_or_insert_default();
    let documented = |known: &RefOr<Parameter>| match known {
        RefOr::T(known) => known.name == STATE_HEADER_NAME,
        RefOr::Ref(_) => false,
    };
    if operation.security.is_none() || parameters.iter().any(documented) {
        return;
    }
    parameters.push(
        ParameterBuilder::new()
            .name(STATE_HEADER_NAME)
            .parameter_in(ParameterIn::Header)
            .description(Some(
                "Marks of the device's state, separated by spaces: the one of this request, then those known of \
                 earlier ones. Needed once the device has used one",
            ))
            .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
            .build()
            .into(),
    );
}

/// The document as it is served.
pub(super) fn document() -> &'static str {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| openapi().to_json().unwrap_or_default());
    &DOCUMENT
}

/// The document without the routes.
pub(super) fn frame() -> OpenApi {
    Frame::openapi()
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Larder",
        version = "v1",
        description = "KeyPackage directory and delivery service for MLS (RFC 9420). MLS objects travel as base64url \
                       without padding of a whole MLSMessage. Errors are application/problem+json (RFC 9457) with a \
                       stable type URN. Unknown members are ignored both ways.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    components(schemas(Problem, ProblemType, KeyPackageCheck, CommitCheck)),
    modifiers(&SessionScheme),
)]
struct Frame;

/// One MLS object as the whole body of a request or response.
pub(super) struct MlsObject;

impl PartialSchema for MlsObject {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)))
            .description(Some("One MLS object, serialized as in RFC 9420"))
            .into()
    }
}

impl ToSchema for MlsObject {}

/// A blob as a body.
pub(super) struct BlobBytes;

impl PartialSchema for BlobBytes {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)))
            .description(Some("Bytes that mean nothing to the server"))
            .into()
    }
}

impl ToSchema for BlobBytes {}

struct SessionScheme;

impl Modify for SessionScheme {
    fn modify(&self, openapi: &mut OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        openapi
            .components
            .get_or_insert_default()
            .add_security_scheme("session", scheme);
    }
}
