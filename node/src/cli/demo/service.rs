//! The two services of the demo: an HTTP one that names its instance, and a TCP echo.
//!
//! Both end when standard input ends, so that none outlives the demo that holds its other end.

use std::{convert::Infallible, net::SocketAddr};

use axum::http::{Request, Response};
use bytes::Bytes;
use clap::Args;
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{copy, split},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
};

use crate::cli::{Exit, exit::CliError};

/// A service of the demo.
#[derive(Args, Debug)]
pub(crate) struct ServiceArgs {
    /// Where to listen: `ip:port`
    #[arg(long)]
    listen: SocketAddr,
    /// The instance's name
    #[arg(long)]
    name: String,
}

/// Answers every request with its name.
pub(crate) fn http(args: &ServiceArgs) -> Result<Exit, CliError> {
    let name = args.name.clone();
    run(args, move |stream| answer(stream, name.clone()))
}

/// Gives back every byte.
pub(crate) fn tcp(args: &ServiceArgs) -> Result<Exit, CliError> {
    run(args, echo)
}

async fn answer(stream: TcpStream, name: String) {
    let service = service_fn(|_: Request<Incoming>| {
        let body = Full::new(Bytes::from(format!("{name}\n")));
        async { Ok::<_, Infallible>(Response::new(body)) }
    });
    // A caller that goes away is its own matter.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn echo(stream: TcpStream) {
    let (mut from, mut to) = split(stream);
    let _ = copy(&mut from, &mut to).await;
}

fn run<F>(args: &ServiceArgs, each: impl Fn(TcpStream) -> F) -> Result<Exit, CliError>
where
    F: Future<Output = ()> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| CliError::failed(format!("cannot start: {e}")))?;
    let served = runtime.block_on(async {
        let listener = TcpListener::bind(args.listen).await?;
        serve(listener, parent_gone(), each).await;
        Ok::<_, std::io::Error>(())
    });
    served.map_err(|e| CliError::failed(format!("{}: {e}", args.listen)))?;
    Ok(Exit::Done)
}

/// Serves until `gone` is told.
async fn serve<F>(
    listener: TcpListener,
    mut gone: oneshot::Receiver<()>,
    each: impl Fn(TcpStream) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            _ = &mut gone => return,
            Some(_) = calls.join_next() => {}
            accepted = listener.accept(), if calls.len() < CALLS_MAX => {
                if let Ok((stream, _)) = accepted {
                    calls.spawn(each(stream));
                }
            }
        }
    }
}

/// Is told when standard input ends. The thread ends with it, or with the process.
fn parent_gone() -> oneshot::Receiver<()> {
    let (gone, told) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = gone.send(());
    });
    told
}

/// Calls served at one time; the next waits in the kernel's backlog.
const CALLS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::load;

    /// Serves while `check` runs.
    async fn served<F>(
        each: impl Fn(TcpStream) -> F,
        check: impl AsyncFnOnce(SocketAddr),
    ) -> SocketAddr
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (end, gone) = oneshot::channel();
        let check = async {
            check(at).await;
            end.send(()).unwrap();
        };
        tokio::join!(serve(listener, gone, each), check);
        at
    }

    #[tokio::test]
    async fn an_instance_answers_its_name_and_calls_are_counted() {
        let named = |stream| answer(stream, "demo-7".into());
        let at = served(named, async |at| {
            let tally = load::some(at, 5).await;
            assert_eq!((tally.sent, tally.failed), (5, 0), "{tally:?}");
            assert_eq!(tally.instances(), "demo-7 5");
            assert!(tally.percentile(50) > 0);
        })
        .await;
        let tally = load::some(at, 2).await;
        assert_eq!((tally.sent, tally.failed), (2, 2));
        assert!(tally.why.unwrap().contains("refused"));
    }

    #[tokio::test]
    async fn the_echo_gives_back_every_byte_after_a_half_close() {
        served(echo, async |at| load::echo(at).await.unwrap()).await;
        let deaf = |stream: TcpStream| async move { drop(stream) };
        served(deaf, async |at| assert!(load::echo(at).await.is_err())).await;
    }
}
