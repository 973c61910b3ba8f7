//! `image …`: this node's image store.

use multihome_vmm::images::{Content, Image, ImageStore, Source};
use serde_json::json;

use crate::args::{Cli, Format, ImageCommand};
use crate::{CliError, CliResult, Output};

pub(super) fn run(cli: &Cli, command: &ImageCommand, out: &mut Output) -> CliResult {
    let store = ImageStore::new(cli.data_dir.join("images"));
    match command {
        ImageCommand::Import(args) => {
            let source = match (&args.disk, &args.kernel) {
                (Some(disk), _) => Source::Disk(disk.clone()),
                (None, Some(kernel)) => Source::Kernel {
                    kernel: kernel.clone(),
                    initramfs: args.initramfs.clone(),
                    cmdline: args.cmdline.clone(),
                },
                (None, None) => return Err(CliError::new("name a file: --disk, or --kernel with --initramfs")),
            };
            let image = store.import(&args.name, &source)?;
            out.line(format!("image {} imported ({}, {})", image.name, kind(&image), size(&image)));
        }
        ImageCommand::List { output } => list(&store, *output, out)?,
        ImageCommand::Rm(args) => {
            let image = store.remove(&args.name)?;
            out.line(format!("image {} removed", image.name));
        }
    }
    Ok(0)
}

fn list(store: &ImageStore, format: Format, out: &mut Output) -> Result<(), CliError> {
    let images = store.list()?;
    match format {
        Format::Json | Format::Yaml => {
            let value = json!(images);
            return if format == Format::Json { out.json(&value) } else { out.yaml(&value) };
        }
        Format::Name => images.iter().for_each(|i| out.line(&i.name)),
        Format::Table | Format::Wide if images.is_empty() => out.note("no images found"),
        Format::Table | Format::Wide => {
            let rows: Vec<Vec<String>> =
                images.iter().map(|i| vec![i.name.clone(), kind(i).to_owned(), size(i)]).collect();
            out.table(&crate::output::cells(["NAME", "KIND", "SIZE"]), &rows);
        }
    }
    Ok(())
}

fn kind(image: &Image) -> &'static str {
    match image.content {
        Content::Kernel { .. } => "kernel",
        Content::Disk { .. } => "disk",
    }
}

fn size(image: &Image) -> String {
    let bytes = match &image.content {
        Content::Kernel { kernel, initramfs, .. } => kernel.size + initramfs.as_ref().map_or(0, |i| i.size),
        Content::Disk { disk, .. } => disk.size,
    };
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
