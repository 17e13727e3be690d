//! The HTTP/1.1 face of the client port. `docs/api.md` is its contract.
//!
//! ```text
//!   /v1/kv/{key}   PUT GET HEAD DELETE    raw bytes; ETag, If-Match, If-None-Match, Idempotency-Key
//!   /v1/kv         GET                    a range, as JSON
//!   /v1/status  /v1/members  /v1/leader/transfer  /livez  /readyz  /metrics
//! ```
//!
//! * Keys are any bytes: they are taken from the raw path and decoded here, because a decoded path would have
//!   to be UTF-8.
//! * A body is read up to the limit and not beyond; a declared length over the limit is not read at all.
//! * What is not understood (a parameter, a precondition, an escape) is refused, never ignored.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, delete, get, post};
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use quorate::{Consistency, Dedupe, NodeId};
use quorate_client::{ErrorCode, proto};
use quorate_kv::{Condition, KvCommand};
use tokio::time::timeout_at;

use crate::convert;
use crate::error::{ApiError, CODE_HEADER};
use crate::gate::{Gate, is_grpc};
use crate::json;
use crate::query::{Query, percent_decode};
use crate::room::declared_bytes;
use crate::service::{Context, Range, Service, Written};

/// The position in the log that an answer reflects.
const INDEX_HEADER: HeaderName = HeaderName::from_static("quorate-index");
/// Makes a retried write apply once.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The largest JSON body in bytes.
const JSON_BYTES_MAX: usize = 16 << 10;

/// What handlers share.
#[derive(Clone)]
pub(crate) struct Http {
    pub(crate) service: Arc<Service>,
    pub(crate) gate: Arc<Gate>,
    /// Why the node cannot go on, if so.
    pub(crate) failed: tokio::sync::watch::Receiver<Option<crate::server::ServerFailure>>,
}

type Answer = Result<Response, ApiError>;

pub(crate) fn router(http: Http) -> Router {
    let keys = get(get_key).put(put_key).delete(delete_key).fallback(wrong_method);
    Router::new()
        .route("/v1/kv", get(scan).fallback(wrong_method))
        .route("/v1/kv/", any(empty_key))
        .route("/v1/kv/{*key}", keys)
        .route("/v1/status", get(status).fallback(wrong_method))
        .route(
            "/v1/members",
            get(member_list).post(member_add).delete(member_remove_asked).fallback(wrong_method),
        )
        .route("/v1/members/{node}", delete(member_remove).fallback(wrong_method))
        .route("/v1/members/{node}/promote", post(member_promote).fallback(wrong_method))
        .route("/v1/leader/transfer", post(transfer).fallback(wrong_method))
        .route("/livez", get(livez).fallback(wrong_method))
        .route("/readyz", get(readyz).fallback(wrong_method))
        .route("/metrics", get(metrics).fallback(wrong_method))
        .with_state(http)
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = json_response(self.http_status(), &self.to_json());
        let headers = response.headers_mut();
        headers.insert(CODE_HEADER, HeaderValue::from_static(self.code.name()));
        if matches!(self.code, ErrorCode::Busy | ErrorCode::NoLeader | ErrorCode::ShuttingDown) {
            headers.insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

fn json_response(status: StatusCode, json: &serde_json::Value) -> Response {
    let body = format!("{json}\n");
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}

/// What no route matches, gRPC or not.
pub(crate) async fn no_such_path(request: Request) -> Response {
    let error = ApiError::new(ErrorCode::NotFound, "there is no such path: see docs/api.md");
    if is_grpc(request.headers()) {
        return tonic::Status::unimplemented("there is no such call: see quorate.v1").into_http();
    }
    error.into_response()
}

async fn wrong_method(request: Request) -> Response {
    let path = request.uri().path();
    let allowed = match path {
        "/v1/members" => "GET, POST, DELETE",
        "/v1/leader/transfer" => "POST",
        path if path.starts_with("/v1/kv/") => "GET, HEAD, PUT, DELETE",
        path if path.starts_with("/v1/members/") && path.ends_with("/promote") => "POST",
        path if path.starts_with("/v1/members/") => "DELETE",
        _ => "GET, HEAD",
    };
    let message = format!("{} is not possible here: {allowed} are", request.method());
    let mut response = ApiError::new(ErrorCode::MethodNotAllowed, message).into_response();
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

async fn empty_key() -> ApiError {
    ApiError::invalid("the key is empty: a key has at least one byte")
}

/// The key of `/v1/kv/{key}`, from the path as it was sent.
fn key_of(request: &Request) -> Result<Bytes, ApiError> {
    let raw = request.uri().path().strip_prefix("/v1/kv/").unwrap_or_default();
    percent_decode(raw.as_bytes(), false).map(Bytes::from)
}

async fn put_key(State(http): State<Http>, request: Request) -> Answer {
    let service = &http.service;
    let context = write_context(service, &request)?;
    let (key, condition) = (key_of(&request)?, condition_of(request.headers())?);
    let idempotency_key = idempotency_key_of(request.headers())?;
    let value = read_body(request, service.limits.value_bytes_max, "value", context).await?;
    let command = KvCommand::Put { key, value, condition };
    let dedupe = dedupe_of(idempotency_key, &command)?;
    let written = service.write(context, command, dedupe).await?;
    let mut response = written_response(written);
    response.headers_mut().insert(ETAG, etag(written.version)?);
    Ok(response)
}

async fn delete_key(State(http): State<Http>, request: Request) -> Answer {
    let service = &http.service;
    let context = write_context(service, &request)?;
    let command = KvCommand::Delete { key: key_of(&request)?, condition: condition_of(request.headers())? };
    let dedupe = dedupe_of(idempotency_key_of(request.headers())?, &command)?;
    Ok(written_response(service.write(context, command, dedupe).await?))
}

fn written_response(written: Written) -> Response {
    let json = serde_json::json!({
        "index": written.index,
        "version": written.version,
        "existed": written.existed,
    });
    let mut response = json_response(StatusCode::OK, &json);
    response.headers_mut().insert(INDEX_HEADER, written.index.into());
    response
}

async fn get_key(State(http): State<Http>, request: Request) -> Answer {
    let mut query = Query::parse(request.uri().query())?;
    let (context, consistency) = read_context(&http.service, &mut query)?;
    query.end()?;
    if request.headers().contains_key(IF_MATCH) {
        return Err(ApiError::invalid("If-Match is for PUT and DELETE: use If-None-Match with GET"));
    }
    let answered = http.service.get(context, key_of(&request)?, consistency).await?;
    let index = HeaderValue::from(answered.index);
    let Some(item) = answered.value else {
        let error = ApiError::new(ErrorCode::NotFound, "the key is not there");
        return Ok(([(INDEX_HEADER, index)], error).into_response());
    };
    let tag = etag(item.version)?;
    let unchanged = request.headers().get(IF_NONE_MATCH).is_some_and(|asked| *asked == tag);
    let headers = [(INDEX_HEADER, index), (ETAG, tag)];
    if unchanged {
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    let octets = [(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))];
    Ok((headers, octets, item.value).into_response())
}

async fn scan(State(http): State<Http>, request: Request) -> Answer {
    let mut query = Query::parse(request.uri().query())?;
    let (context, consistency) = read_context(&http.service, &mut query)?;
    let range = Range {
        start: query.take("start").unwrap_or_default().into(),
        end: query.take("end").unwrap_or_default().into(),
        limit: query.take_number("limit")?.unwrap_or_default(),
    };
    query.end()?;
    let answered = http.service.scan(context, range, consistency).await?;
    let mut response = json_response(StatusCode::OK, &json::page(answered.index, &answered.value));
    response.headers_mut().insert(INDEX_HEADER, answered.index.into());
    Ok(response)
}

async fn status(State(http): State<Http>) -> Response {
    json_response(StatusCode::OK, &json::status(&http.service.status()))
}

async fn member_list(State(http): State<Http>, request: Request) -> Answer {
    let context = write_context(&http.service, &request)?;
    let list = http.service.member_list(context).await?;
    Ok(json_response(StatusCode::OK, &json::members(&list)))
}

async fn member_add(State(http): State<Http>, request: Request) -> Answer {
    let context = write_context(&http.service, &request)?;
    let asked: json::MemberAdd = read_json(request, context).await?;
    let (node, client_address) = (NodeId(asked.node_id), asked.client_address.unwrap_or_default());
    let added = http.service.member_add(context, node, &asked.peer_address, &client_address).await?;
    let json = serde_json::json!({
        "index": added.index,
        "node_id": asked.node_id,
        "replica_id": added.replica_id,
        "cluster_id": json::cluster_id(added.cluster_id),
    });
    Ok(with_index(json_response(StatusCode::OK, &json), added.index))
}

async fn member_promote(State(http): State<Http>, Path(node): Path<String>, request: Request) -> Answer {
    let context = write_context(&http.service, &request)?;
    let changed = http.service.member_promote(context, node_of(&node)?).await?;
    Ok(changed_response(changed))
}

async fn member_remove(State(http): State<Http>, Path(node): Path<String>, request: Request) -> Answer {
    let context = write_context(&http.service, &request)?;
    let changed = http.service.member_remove(context, node_of(&node)?).await?;
    Ok(changed_response(changed))
}

async fn member_remove_asked(State(http): State<Http>, request: Request) -> Answer {
    let mut query = Query::parse(request.uri().query())?;
    let timeout_millis = query.take_number("timeout_millis")?.unwrap_or_default();
    let Some(node) = query.take_number::<u64>("node_id")? else {
        return Err(ApiError::invalid("say which: DELETE /v1/members/{node_id}"));
    };
    query.end()?;
    let context = http.service.context_for(timeout_millis, false);
    Ok(changed_response(http.service.member_remove(context, NodeId(node)).await?))
}

fn changed_response(changed: crate::members::Changed) -> Response {
    let json = serde_json::json!({ "index": changed.index, "replica_id": changed.replica });
    with_index(json_response(StatusCode::OK, &json), changed.index)
}

fn with_index(mut response: Response, index: u64) -> Response {
    response.headers_mut().insert(INDEX_HEADER, index.into());
    response
}

async fn transfer(State(http): State<Http>, request: Request) -> Answer {
    let context = write_context(&http.service, &request)?;
    let asked: json::Transfer = read_json(request, context).await?;
    let leader = http.service.transfer_leadership(context, asked.node_id.map(NodeId)).await?;
    let json = serde_json::json!({
        "leader": { "node_id": leader.node, "client_address": leader.client_address },
    });
    Ok(json_response(StatusCode::OK, &json))
}

async fn livez(State(http): State<Http>) -> Response {
    match &*http.failed.borrow() {
        None => "ok\n".into_response(),
        Some(failure) => ApiError::new(ErrorCode::Unavailable, failure.to_string()).into_response(),
    }
}

async fn readyz(State(http): State<Http>) -> Response {
    match http.service.ready().await {
        Ok(()) => "ok\n".into_response(),
        Err(error) => {
            // Not ready is not ready, whatever the reason.
            let mut response = error.into_response();
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response
        }
    }
}

async fn metrics(State(http): State<Http>) -> Response {
    const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match http.gate.metrics().text() {
        Ok(text) => ([(CONTENT_TYPE, TEXT)], text).into_response(),
        Err(error) => ApiError::new(ErrorCode::Unavailable, error.to_string()).into_response(),
    }
}

fn node_of(text: &str) -> Result<NodeId, ApiError> {
    match text.parse::<u64>() {
        Ok(node) => Ok(NodeId(node)),
        Err(_) => Err(ApiError::invalid(format!("{text:?} is not a node id: node ids are numbers"))),
    }
}

/// A write's context: `timeout_millis` is its only parameter.
fn write_context(service: &Service, request: &Request) -> Result<Context, ApiError> {
    let mut query = Query::parse(request.uri().query())?;
    let timeout_millis = query.take_number("timeout_millis")?.unwrap_or_default();
    query.end()?;
    Ok(service.context_for(timeout_millis, false))
}

fn read_context(service: &Service, query: &mut Query) -> Result<(Context, Consistency), ApiError> {
    let timeout_millis = query.take_number("timeout_millis")?.unwrap_or_default();
    let level = match query.take("consistency").as_deref() {
        None | Some(b"linearizable") => proto::Consistency::Linearizable,
        Some(b"lease") => proto::Consistency::Lease,
        Some(b"recent") => proto::Consistency::Recent,
        Some(b"stale") => proto::Consistency::Stale,
        Some(_) => {
            let message = "consistency is linearizable (the default), lease, recent or stale";
            return Err(ApiError::invalid(message));
        }
    };
    let age_max_millis = query.take_number("age_max_millis")?.unwrap_or_default();
    let consistency = convert::consistency(level.into(), age_max_millis)?;
    Ok((service.context_for(timeout_millis, false), consistency))
}

fn etag(version: u64) -> Result<HeaderValue, ApiError> {
    HeaderValue::from_str(&format!("\"{version}\"")).map_err(|error| ApiError::invalid(error.to_string()))
}

/// What `If-Match` and `If-None-Match` demand of the key.
fn condition_of(headers: &HeaderMap) -> Result<Condition, ApiError> {
    let only = |name: HeaderName| {
        let mut values = headers.get_all(&name).iter();
        match (values.next(), values.next()) {
            (value, None) => Ok(value.map(|value| value.as_bytes().trim_ascii())),
            (_, Some(_)) => Err(ApiError::invalid(format!("{name} may be given once"))),
        }
    };
    match (only(IF_MATCH)?, only(IF_NONE_MATCH)?) {
        (None, None) => Ok(Condition::Any),
        (None, Some(b"*")) => Ok(Condition::Absent),
        (None, Some(_)) => Err(ApiError::invalid("If-None-Match of a write must be *")),
        (Some(b"*"), None) => Ok(Condition::Present),
        (Some(tag), None) => version_of(tag).map(Condition::Version),
        (Some(_), Some(_)) => Err(ApiError::invalid("give If-Match or If-None-Match, not both")),
    }
}

/// The version an entity tag stands for. One that this server never gave matches nothing.
fn version_of(tag: &[u8]) -> Result<u64, ApiError> {
    let inner = tag.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    let Some(inner) = inner.filter(|inner| !inner.contains(&b'"')) else {
        return Err(ApiError::invalid(
            "If-Match must be * or one entity tag as it was given, with its quotes",
        ));
    };
    // Version 0 is no key's.
    Ok(std::str::from_utf8(inner).ok().and_then(|text| text.parse().ok()).unwrap_or(0))
}

fn idempotency_key_of(headers: &HeaderMap) -> Result<Option<Bytes>, ApiError> {
    let mut values = headers.get_all(&IDEMPOTENCY_KEY).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value.map(|value| Bytes::copy_from_slice(value.as_bytes()))),
        (_, Some(_)) => Err(ApiError::invalid("Idempotency-Key may be given once")),
    }
}

fn dedupe_of(key: Option<Bytes>, command: &KvCommand) -> Result<Dedupe, ApiError> {
    key.map_or(Ok(Dedupe::None), |key| convert::idempotency_key(key, command))
}

/// Reads a body of at most `bytes_max` bytes.
async fn read_body(
    request: Request,
    bytes_max: usize,
    what: &str,
    context: Context,
) -> Result<Bytes, ApiError> {
    let too_large = || {
        let message = format!("the {what} is over the limit of {bytes_max} bytes");
        ApiError::new(ErrorCode::TooLarge, message)
    };
    if declared_bytes(request.headers()).is_some_and(|declared| declared > bytes_max as u64) {
        return Err(too_large());
    }
    match timeout_at(context.deadline, Limited::new(request.into_body(), bytes_max).collect()).await {
        Ok(Ok(read)) => Ok(read.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(ApiError::invalid(format!("the {what} broke off: {error}"))),
        Err(_) => Err(ApiError::new(ErrorCode::Timeout, format!("the {what} did not arrive in time"))),
    }
}

/// Reads a JSON body; an empty one is an empty object.
async fn read_json<T: serde::de::DeserializeOwned>(
    request: Request,
    context: Context,
) -> Result<T, ApiError> {
    let bytes = read_body(request, JSON_BYTES_MAX, "request", context).await?;
    let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
    serde_json::from_slice(text)
        .map_err(|error| ApiError::invalid(format!("the request is not the JSON expected: {error}")))
}
