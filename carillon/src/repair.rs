//! `carillon repair`: reports what a damaged data directory has lost, and makes it usable again without the lost part.

use crate::Failure;
use carillon_message_worker::store::embedded;
use carillon_runtime::settings::Refused;
use carillon_runtime::settings::load::Loaded;

/// Prints what is damaged and what is lost. With `accept_loss`, it also repairs the directory.
///
/// # Errors
/// When there is no data directory, another process uses it, or it is damaged and `accept_loss` is not given.
pub fn run(loaded: &Loaded, accept_loss: bool) -> Result<(), Failure> {
    let settings = &loaded.settings;
    // Only a database that the user named is an error, because other roles have one by default.
    if loaded.origins.contains_key("scylla.nodes") {
        let wrong = "repair looks at a data directory, and --scylla names a database: see carillon audit";
        return Err(Refused(vec![wrong.into()]).into());
    }
    let repair = embedded::repair(&settings.data_dir, accept_loss).map_err(anyhow::Error::from)?;
    print!("{repair}");
    if repair.damages.is_empty() {
        return Ok(());
    }
    if accept_loss {
        println!("repaired: carillon standalone starts again with this directory");
        return Ok(());
    }
    Err(anyhow::anyhow!(
        "nothing was changed: bring back a backup of {dir}, or run carillon repair --accept-loss --data-dir {dir}",
        dir = settings.data_dir.display()
    )
    .into())
}
