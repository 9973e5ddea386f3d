"""`steersman vectors ...`: all commands about vectors."""

import typer

from steersman.client.cli.vectors import extract, importing, listing, manage, rescale, transfer

app = typer.Typer(
    help="List, import, make, change, compare and delete vectors.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
app.command("list", help=listing.LIST_HELP)(listing.list_vectors)
app.command("show", help=listing.SHOW_HELP)(listing.show_vector)
app.command("import", help=importing.HELP)(importing.import_vector)
app.command("export", help=transfer.EXPORT_HELP)(transfer.export)
app.command("upload", help=transfer.UPLOAD_HELP)(transfer.upload)
app.command("delete", help=transfer.DELETE_HELP)(transfer.delete)
app.command("set", help=manage.SET_HELP)(manage.set_vector)
app.command("rename", help=manage.RENAME_HELP)(manage.rename)
app.command("compare", help=manage.COMPARE_HELP)(manage.compare)
app.command("extract", help=extract.HELP)(extract.extract)
app.command("rescale", help=rescale.HELP)(rescale.rescale_vectors)
