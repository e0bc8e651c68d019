//! [`Server`]: listens on loopback and answers views.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing::get};
use serde_json::{Value, json};
use tidemill_model::{Clock, Error, Kind, Result, nearest};
use tidemill_runtime::exec::Views;
use tokio::net::TcpListener;

use crate::answer::{ServedView, envelope};
use crate::filter;

/// What requests are answered from.
#[derive(Debug, Clone)]
pub struct ServerState {
    /// The published rows.
    pub published: Arc<Views>,
    /// The views of the project.
    pub views: Arc<Vec<ServedView>>,
    /// The present.
    pub clock: Arc<dyn Clock>,
}

/// A bound address, ready to serve.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    state: ServerState,
}

impl Server {
    /// Binds a loopback address.
    ///
    /// # Errors
    /// Config, when it is not a loopback address or in use.
    pub async fn bind(address: SocketAddr, state: ServerState) -> Result<Server> {
        if !address.ip().is_loopback() {
            return Err(Error::new(Kind::Config, "C071", format!("the server cannot listen on {address}"))
                .fact("requests are not authenticated, so only loopback addresses are possible: 127.0.0.1:7070"));
        }
        let failed = |e: std::io::Error| {
            let advice = match e.kind() {
                std::io::ErrorKind::AddrInUse => {
                    "another process listens there: stop it, or set listen = \"127.0.0.1:7071\" under [server] in tidemill.toml"
                }
                _ => "set another address under [server] in tidemill.toml: listen = \"127.0.0.1:7071\"",
            };
            Error::new(Kind::Config, "C072", format!("cannot listen on {address}: {e}")).fact(advice).because(e)
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Server { listener, address, state })
    }

    /// The address bound, with the port that the system chose when 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is ready.
    ///
    /// # Errors
    /// Unavailable, when the listener fails.
    pub async fn serve(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<()> {
        let router = Router::new()
            .route("/healthz", get(async || "ok\n"))
            .route("/v1/views", get(list))
            .route("/v1/views/{name}", get(view))
            .method_not_allowed_fallback(async || refuse(StatusCode::METHOD_NOT_ALLOWED, &read_only()))
            .fallback(async || refuse(StatusCode::NOT_FOUND, &not_found()))
            .with_state(self.state);
        let served = axum::serve(self.listener, router).with_graceful_shutdown(stop).await;
        served.map_err(|e| Error::io("serve on", self.address, e))
    }
}

fn not_found() -> Error {
    Error::new(Kind::Config, "C073", "there is nothing here").fact("try /v1/views or /v1/views/NAME?column=value")
}

fn read_only() -> Error {
    Error::new(Kind::Config, "C073", "this can only be read").fact("use GET")
}

fn unreadable() -> Error {
    Error::new(Kind::Config, "C070", "the address of this request cannot be read")
        .fact("write it as /v1/views/NAME?column=value, with %20 for a space and %26 for `&`")
}

/// Pages of other sites must not read the answers of a server on loopback, by way of a name that resolves to it.
fn is_local(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(
        host,
        |(name, port)| {
            if port.bytes().all(|b| b.is_ascii_digit()) { name } else { host }
        },
    );
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

async fn list(State(state): State<ServerState>, headers: HeaderMap) -> Response {
    if !is_local(&headers) {
        return refuse(StatusCode::FORBIDDEN, &foreign());
    }
    let views: Vec<Value> = state
        .views
        .iter()
        .map(|view| {
            let columns: Vec<&str> = view.schema.fields().iter().map(|field| field.name().as_str()).collect();
            // What cannot be read is told where the view itself is asked for.
            let rows = state.published.rows(&view.name).ok().flatten();
            json!({
                "view": view.name,
                "pipeline": view.pipeline,
                "columns": columns,
                "epoch": rows.as_ref().map(|rows| rows.epoch.0),
                "rows": rows.map(|rows| rows.batches.iter().map(|b| b.num_rows()).sum::<usize>()),
            })
        })
        .collect();
    Json(json!({ "views": views })).into_response()
}

async fn view(
    State(state): State<ServerState>,
    name: std::result::Result<Path<String>, PathRejection>,
    parameters: std::result::Result<Query<Vec<(String, String)>>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    if !is_local(&headers) {
        return refuse(StatusCode::FORBIDDEN, &foreign());
    }
    let (Ok(Path(name)), Ok(Query(parameters))) = (name, parameters) else {
        return refuse(StatusCode::BAD_REQUEST, &unreadable());
    };
    let Some(view) = state.views.iter().find(|view| view.name == name) else {
        return refuse(StatusCode::NOT_FOUND, &no_view(&state, &name));
    };
    let published = match state.published.rows(&name) {
        Ok(published) => published,
        Err(error) => return refuse(StatusCode::INTERNAL_SERVER_ERROR, &error),
    };
    let Some(rows) = published else {
        let error = Error::new(Kind::Unavailable, "U070", format!("`{name}` has no epoch yet"))
            .fact(format!("it is kept by pipeline {}: ask again once that has committed one", view.pipeline));
        return refuse(StatusCode::SERVICE_UNAVAILABLE, &error);
    };
    let asked = match filter::read(&view.schema, &parameters) {
        Ok(asked) => asked,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error),
    };
    let answered =
        filter::apply(&rows.batches, &asked).and_then(|kept| envelope(view, &rows, &kept, state.clock.now()));
    match answered {
        Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error),
    }
}

fn foreign() -> Error {
    Error::new(Kind::Config, "C074", "this server answers requests to loopback names only")
        .fact("ask for http://127.0.0.1 or http://localhost")
}

fn no_view(state: &ServerState, name: &str) -> Error {
    let names: Vec<&str> = state.views.iter().map(|view| view.name.as_str()).collect();
    let error = Error::new(Kind::Config, "C073", format!("no view `{name}`"));
    let error = match nearest(name, names.iter().copied()) {
        Some(meant) => error.label(format!("did you mean `{meant}`?")),
        None => error,
    };
    error.fact(if names.is_empty() { "there are no views".to_owned() } else { format!("views: {}", names.join(", ")) })
}

fn refuse(status: StatusCode, error: &Error) -> Response {
    let body = json!({
        "code": error.code(),
        "message": error.message(),
        "label": error.caret_label(),
        "facts": error.facts(),
    });
    (status, Json(body)).into_response()
}
