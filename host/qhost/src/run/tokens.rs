//! `qhost token`: the tokens by which clients of the service are known.

use jiff::Timestamp;
use serde_json::json;

use qhost_engine::{EngineError, Token};

use super::{RunError, engine, show};
use crate::{
    cli::{NewTokenArgs, Shared, TokenCommand},
    exit::Exit,
};

pub(super) fn token(shared: &Shared, command: &TokenCommand) -> Exit {
    let done = match command {
        TokenCommand::New(args) => make(shared, args),
        TokenCommand::Ls => list(shared),
        TokenCommand::Rm(args) => remove(shared, &args.names),
    };
    done.map_or_else(|error| show::failure(shared, &error), |()| Exit::Done)
}

fn make(shared: &Shared, args: &NewTokenArgs) -> Result<(), RunError> {
    let (token, text) = engine(shared)?.make_token(&args.name, args.tenant.clone(), args.days)?;
    if shared.json {
        show::print(&show::json(&json!({"token": token, "secret": text})));
    } else {
        show::print(&format!("{text}\n"));
        show::say(&format!("token     {} {}, shown this once", token.name, holder(&token)));
    }
    Ok(())
}

fn list(shared: &Shared) -> Result<(), RunError> {
    let tokens = engine(shared)?.tokens().list().map_err(EngineError::from)?;
    if shared.json {
        show::print(&show::json(&json!({"tokens": tokens})));
        return Ok(());
    }
    let mut rows = vec![["NAME", "FOR", "MADE", "ENDS"].map(str::to_owned)];
    rows.extend(tokens.iter().map(|token| {
        let day = |time: Timestamp| time.strftime("%Y-%m-%d").to_string();
        let ends = match token.ends_at {
            Some(_) if token.has_ended() => "has ended".into(),
            ends => ends.map_or("-".into(), day),
        };
        [token.name.clone(), holder(token), day(token.made_at), ends]
    }));
    show::print(&show::table(&rows));
    Ok(())
}

fn holder(token: &Token) -> String {
    token.tenant.as_ref().map_or("operators".into(), |tenant| format!("tenant {tenant}"))
}

fn remove(shared: &Shared, names: &[String]) -> Result<(), RunError> {
    let tokens = engine(shared)?.tokens();
    Ok(names.iter().try_for_each(|name| tokens.remove(name)).map_err(EngineError::from)?)
}
