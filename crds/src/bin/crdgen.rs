//! Writes the CRDs of this package to `crds/yaml`.

use std::path::Path;
use std::{fs, io};

fn main() -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("yaml");
    fs::create_dir_all(&folder)?;
    for manifest in crds::manifest::manifests() {
        fs::write(folder.join(manifest.file), manifest.yaml())?;
    }
    Ok(())
}
