//! `componentize MODULE COMPONENT`: makes a core module that carries its world's type into a component. It adds
//! nothing: a module that imports more than its world's interfaces is an error.

use std::{env, error::Error, fs};

use wit_component::ComponentEncoder;

fn main() -> Result<(), Box<dyn Error>> {
    let paths: Vec<_> = env::args_os().skip(1).collect();
    let [module, component] = paths.as_slice() else {
        return Err("usage: componentize MODULE COMPONENT".into());
    };
    let bytes = ComponentEncoder::default()
        .module(&fs::read(module)?)
        .map_err(|error| format!("{}: {error:#}", module.display()))?
        .validate(true)
        .encode()
        .map_err(|error| format!("{}: {error:#}", module.display()))?;
    fs::write(component, bytes)?;
    Ok(())
}
