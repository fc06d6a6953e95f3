"""Links of STAC documents: absolute URLs and paths, without signatures and secrets.

Sources: STAC best practices, "Consistent URIs"; RFC 3986; the query parameters of signed URLs in
the documents of Azure Storage (service SAS), Amazon S3 (Signature Version 2 and 4), CloudFront and
Google Cloud Storage (signed URLs).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote, unquote_plus, urljoin, urlsplit

#: Query parameters of a signature that have no other use.
_ALWAYS_SIGNATURE = {
    *(f"x-amz-{w}" for w in ("algorithm", "credential", "date", "expires", "signedheaders", "signature")),
    "x-amz-security-token",
    "awsaccesskeyid",
    "googleaccessid",
}
#: Parameter with the signature -> parameters that are part of it. Their names are short words that
#: other links use for other things, so they count only beside that parameter.
_SIGNATURE_OF = {
    "sig": {
        *("sig", "st", "se", "sp", "sv", "sr", "sip", "spr"),
        *("skoid", "sktid", "skt", "ske", "sks", "skv"),
    },
    "signature": {"signature", "expires", "policy", "key-pair-id"},
}
#: Query parameters that give access to whoever has them.
_SECRETS = {
    *("token", "access_token", "access-token", "accesstoken", "auth_token", "api_key", "api-key", "apikey"),
    *("subscription-key", "subscription_key", "password", "auth", "authkey", "auth_key", "jwt"),
    *("sas_token", "sastoken", "id_token", "session_token", "access_key", "secret", "client_secret"),
}
#: What a removed user and password is called in messages.
_USER = "user and password"


def is_url(href: str) -> bool:
    """Whether a link has a scheme and a host, also one that is not read (``gs://``). A drive
    letter or a colon in a file name is no scheme."""
    scheme, separator, _ = href.partition("://")
    return bool(separator) and len(scheme) > 1 and scheme.replace("+", "").replace("-", "").isalnum()


def remove_secrets(url: str) -> tuple[str, tuple[str, ...]]:
    """A URL without signature, secrets and fragment. The other parameters of the query stay as
    they are, because they can tell files apart.

    Returns:
        (URL, names of what was removed as the link writes them, sorted).
    """
    parts = urlsplit(url)
    pieces = [p for p in parts.query.split("&") if p]
    names = [unquote_plus(p.partition("=")[0]) for p in pieces]
    lower = {n.lower() for n in names}
    unwanted = _ALWAYS_SIGNATURE | _SECRETS
    for key, members in _SIGNATURE_OF.items():
        if key in lower:
            unwanted |= members
    drop = [n.lower() in unwanted or n.lower().startswith("x-goog-") for n in names]
    removed = {n for n, out in zip(names, drop) if out}
    query = "&".join(p for p, out in zip(pieces, drop) if not out) if removed else parts.query
    user, separator, host = parts.netloc.rpartition("@")
    if separator and user:
        removed.add(_USER)
    return parts._replace(netloc=host, query=query, fragment="").geturl(), tuple(sorted(removed))


def add_query(url: str, query: str | None) -> str:
    """A URL with more parameters."""
    if not query:
        return url
    return f"{url}{'&' if urlsplit(url).query else '?'}{query}"


def add_suffix(url: str, suffix: str) -> str:
    """The URL of the file beside a file, ``a.tif.msk`` for ``a.tif``, with the same query."""
    parts = urlsplit(url)
    return parts._replace(path=parts.path + suffix).geturl()


def quote_url(url: str) -> str:
    """A URL whose spaces and other characters are encoded; what is encoded already stays."""
    parts = urlsplit(url)
    path = quote(parts.path, safe="/%:@!$&'()*+,;=~-._")
    return parts._replace(path=path, query=quote(parts.query, safe="/?%:@!$&'()*+,;=~-._[]{}|")).geturl()


def make_absolute(href: str, base: str | None) -> str:
    """A link as an absolute URL or path; unchanged where it is relative and has no base.

    Args:
        base: URL or absolute path of the document that contains the link.
    """
    href = href.strip()
    if href[:7].lower() == "file://":  # only documents of this machine name files of it
        return href if base is None or is_url(base) else _path_of_file_url(href)
    if is_url(href):
        return quote_url(href)
    if base is None or href.startswith("/vsi"):
        return href
    if not is_url(base):
        return _join_paths(base, href)
    scheme, _, rest = base.partition("://")
    # urljoin knows few schemes
    joined = urljoin(f"https://{rest}", quote(href, safe="/%:@!$&'()*+,;=~-._?#[]"))
    if not joined.startswith("https://"):
        return href  # another scheme without a host, such as "netcdf:"
    return f"{scheme}://{joined.removeprefix('https://')}"


def _join_paths(base: str, href: str) -> str:
    """A file beside a document on disk. Characters that are special in URLs are ordinary in names
    of files, so the link is tried as it is before it is decoded."""
    folder = os.path.dirname(base)
    path = os.path.normpath(os.path.join(folder, href))
    if "%" in href and not os.path.exists(path):
        decoded = os.path.normpath(os.path.join(folder, unquote(href)))
        return decoded if os.path.exists(decoded) else path
    return path


def _path_of_file_url(href: str) -> str:
    path = href[7:]
    if path.lower().startswith("localhost/"):
        path = path[len("localhost") :]
    return path if os.path.exists(path) else unquote(path)


def self_link(document: Mapping, origin: str) -> str | None:
    """The ``self`` link of a STAC document as a URL or absolute path, or None. Only a document on
    disk names paths of this machine (``/a/b``, ``file:///a/b``); in another one, ``/a/b`` is
    relative to the host.

    Args:
        origin: URL or absolute path of the document, or the URL of the service that has it.
    """
    remote = is_url(origin)
    for link in document.get("links") or []:
        if isinstance(link, Mapping) and link.get("rel") == "self" and isinstance(link.get("href"), str):
            href = link["href"].strip()
            if href[:7].lower() == "file://":
                return None if remote else _path_of_file_url(href)
            if href.startswith("/") and remote:
                found = _make_absolute_or_keep(href, origin)
                return found if is_url(found) else None
            if is_url(href) or os.path.isabs(href):
                return href
    return None


def resolve_assets(
    item: Mapping, path: str | None, *, beside: bool = False, service: str | None = None
) -> dict[str, Any]:
    """An item whose assets have absolute links: relative to its ``self`` link, else to the
    document that it was read from.

    Args:
        path: URL or path of that document; None where that gives no base (an answer to a search).
        beside: the item is a document of its own on disk. Its files are then looked for beside it
            first, because a copied catalogue can have the ``self`` links of its original.
        service: URL of the API that has the item, to which its ``self`` link can be relative.
    """
    origin = path or service
    own = self_link(item, origin) if origin else None
    beside = beside or bool(own and not is_url(own))
    assets = {}
    for name, asset in (item.get("assets") or {}).items():
        if isinstance(asset, Mapping) and isinstance(asset.get("href"), str):
            href = _make_absolute_or_keep(asset["href"], own or path)
            if beside and path and own and not os.path.exists(href):
                local = _make_absolute_or_keep(asset["href"], path)
                href = local if os.path.exists(local) else href
            if path and is_url(path) and not is_url(href):
                href = f"file://{href}"  # so that it is refused, whatever catalogue links to the item
            asset = dict(asset) | {"href": href}
        assets[name] = asset
    return dict(item) | {"assets": assets}


def _make_absolute_or_keep(href: str, base: str | None) -> str:
    """:func:`make_absolute`, or the link as it is where it or its base is no URL; whoever needs
    the item reports it."""
    try:
        return make_absolute(href, base)
    except ValueError:
        return href


def shown(href: str) -> str:
    """A link for messages, without secrets."""
    try:
        return remove_secrets(href)[0] if is_url(href) else href
    except ValueError:
        return "a link that is no URL"


def has_relative_assets(item: Any) -> bool:
    """Whether an item has links that could not be made absolute."""
    assets = item.get("assets") if isinstance(item, Mapping) else None
    hrefs = [a.get("href") for a in assets.values() if isinstance(a, Mapping)] if isinstance(assets, Mapping) else []
    return any(isinstance(h, str) and not is_url(h) for h in hrefs)
