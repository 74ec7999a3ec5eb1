//! The functions that are worked out in a job specification: those that jobs use and that have nothing to do with files, times and
//! loops. No result is longer than the arguments, except that of `join`.

use hcl::eval::{Context, FuncArgs, FuncDef, ParamType};

use crate::limits;

/// The functions' names.
pub(super) const NAMES: [&str; 7] =
    ["concat", "format", "join", "lower", "tostring", "trimspace", "upper"];
/// What an error expects in the place of another function.
pub(super) const KNOWN: &str =
    "one of concat, format, join, lower, tostring, trimspace, upper; or the value written out";

/// Declares the functions.
pub(super) fn declare(context: &mut Context<'static>) {
    let of_text = |function| FuncDef::builder().param(ParamType::String).build(function);
    context.declare_func("lower", of_text(|args| changed(&args, str::to_lowercase)));
    context.declare_func("upper", of_text(|args| changed(&args, str::to_uppercase)));
    context
        .declare_func("trimspace", of_text(|args| changed(&args, |text| text.trim().to_owned())));
    context.declare_func(
        "tostring",
        FuncDef::builder().param(ParamType::Any).build(|args| {
            let value = args.into_values().pop().unwrap_or_default();
            shown(&value).map(hcl::Value::from)
        }),
    );
    context.declare_func(
        "concat",
        FuncDef::builder().variadic_param(ParamType::array_of(ParamType::Any)).build(|args| {
            let lists = args.iter().filter_map(hcl::Value::as_array);
            Ok(hcl::Value::Array(lists.flatten().cloned().collect()))
        }),
    );
    context.declare_func(
        "join",
        FuncDef::builder()
            .param(ParamType::String)
            .param(ParamType::array_of(ParamType::Any))
            .build(joined),
    );
    context.declare_func(
        "format",
        FuncDef::builder().param(ParamType::String).variadic_param(ParamType::Any).build(formatted),
    );
}

fn changed(args: &FuncArgs, change: impl Fn(&str) -> String) -> Result<hcl::Value, String> {
    let text = args.first().and_then(hcl::Value::as_str).unwrap_or_default();
    Ok(change(text).into())
}

fn shown(value: &hcl::Value) -> Result<String, String> {
    match value {
        hcl::Value::String(text) => Ok(text.clone()),
        hcl::Value::Number(number) => Ok(number.to_string()),
        hcl::Value::Bool(value) => Ok(value.to_string()),
        hcl::Value::Null | hcl::Value::Array(_) | hcl::Value::Object(_) => {
            Err("a text, a number, true or false is expected".into())
        }
    }
}

fn joined(args: FuncArgs) -> Result<hcl::Value, String> {
    let between = args.first().and_then(hcl::Value::as_str).unwrap_or_default();
    let items = args.get(1).and_then(hcl::Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if between.len().saturating_mul(items.len()) > limits::JOBSPEC_BYTES {
        return Err("it would be too long".into());
    }
    let texts: Vec<_> = items.iter().map(shown).collect::<Result<_, _>>()?;
    Ok(texts.join(between).into())
}

/// The function `format` with `%s`, `%d` and `%v`, without widths.
fn formatted(args: FuncArgs) -> Result<hcl::Value, String> {
    let mut values = args.into_values().into_iter();
    let format = values.next();
    let format = format.as_ref().and_then(hcl::Value::as_str).unwrap_or_default();
    let mut text = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        match (letter, if letter == '%' { letters.next() } else { None }) {
            ('%', Some('%')) => text.push('%'),
            ('%', Some('s' | 'd' | 'v')) => {
                text += &shown(&values.next().ok_or("it has too few values")?)?;
            }
            ('%', _) => return Err("of format's verbs, %s, %d, %v and %% are known here".into()),
            (letter, _) => text.push(letter),
        }
    }
    if values.next().is_some() { Err("it has too many values".into()) } else { Ok(text.into()) }
}
