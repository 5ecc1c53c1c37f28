"""All settings, read once from defaults, a TOML file and the environment into one frozen value.

Each setting has one name everywhere: `upstream_base_url` in the file is `MEMPROXY_UPSTREAM_BASE_URL` in the
environment. The environment wins over the file, options of the command line win over both. Unknown names in the file
are refused.
"""

import difflib
import enum
import os
import tomllib
from collections.abc import Mapping
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from typing_extensions import override

from memproxy.errors import SettingsError
from memproxy.records import MemoryMode, ToolCacheMode, ToolsMode

PREFIX = "MEMPROXY_"
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
STORE_SCHEMES = (
    *("redis://", "rediss://", "unix://"),
    *("redis+sentinel://", "rediss+sentinel://", "redis+cluster://", "rediss+cluster://"),
)


class Tenancy(enum.StrEnum):
    """How callers are told apart."""

    AUTO = "auto"
    SINGLE = "single"
    KEY = "key"


def _data_dir() -> Path:
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "memproxy"


class Settings(BaseSettings):
    """Every setting; what each one means stands in config/memproxy.toml."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, env_ignore_empty=True)
    reads_machine: ClassVar[bool] = True
    """Whether environment and file are read at all."""

    listen_host: str = "127.0.0.1"
    listen_port: int = Field(8080, ge=0, le=65_535)
    workers: int = Field(1, ge=1, le=64)
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$")
    log_format: str = Field("text", pattern="^(text|json)$")
    access_log: bool = False
    tracing: bool = False
    max_body_mb: float = Field(64, gt=0)
    drain_s: float = Field(0, ge=0)
    shutdown_grace_s: float = Field(30, ge=0)

    upstream_base_url: str = "https://api.openai.com/v1"
    upstream_api_key: SecretStr | None = None
    upstream_connect_timeout_s: float = Field(10, gt=0)
    upstream_idle_timeout_s: float = Field(600, gt=0)
    upstream_connections: int = Field(1_000, ge=1)
    responses_websocket: bool = True

    redis_url: str = ""
    redis_username: str = ""
    redis_password: SecretStr | None = None
    redis_connect_timeout_s: float = Field(2, gt=0)
    redis_connections: int = Field(256, ge=4)
    data_dir: Path = Field(default_factory=_data_dir)

    tenancy: Tenancy = Tenancy.AUTO
    default_user: str = ""
    memory: MemoryMode = MemoryMode.FULL

    session_ttl_s: float = Field(0, ge=0)
    unnamed_session_ttl_s: float = Field(30 * 86_400, ge=60)
    receipt_ttl_s: float = Field(86_400, ge=60)
    session_deadline_s: float = Field(0.5, gt=0)
    record_deadline_s: float = Field(5, gt=0)
    record_buffer: int = Field(10_000, ge=1)

    recall_memories: int = Field(15, ge=1, le=100)
    recall_tokens: int = Field(800, ge=50)
    recall_deadline_s: float = Field(0, ge=0)

    embedding_model: str = ""
    embedding_base_url: str = ""
    embedding_api_key: SecretStr | None = None
    embedding_dimensions: int = Field(1_536, ge=2, le=16_384)
    embedding_timeout_s: float = Field(30, gt=0)
    embedding_query_timeout_s: float = Field(0.5, gt=0)

    tools: ToolsMode = ToolsMode.OFF
    tool_cache: ToolCacheMode = ToolCacheMode.ANSWER
    tools_file: Path | None = None
    answer_rounds: int = Field(8, ge=1, le=50)
    answer_s: float = Field(60, gt=0)

    api_deadline_s: float = Field(10, gt=0)
    legacy_unsaved_sessions: bool = False
    summary_refresh_s: float = Field(3_600, ge=60)

    mcp_user: str = ""
    mcp_namespace: str = ""
    mcp_key: SecretStr | None = None

    default_window: int = Field(128_000, ge=1_000)
    models_file: Path | None = None
    history_keep_share: float = Field(0.45, gt=0, lt=1)

    extraction_model: str = ""
    extraction_base_url: str = ""
    extraction_api_key: SecretStr | None = None
    extraction_small_model: str = ""
    extraction_strategies: str = "discrete"
    extraction_custom_prompt: str = ""
    extraction_daily_tokens: int = Field(0, ge=0)
    extraction_timeout_s: float = Field(120, gt=0)
    extraction_jobs: int = Field(4, ge=1, le=256)
    extraction_debounce_s: float = Field(10, ge=0)
    extraction_max_wait_s: float = Field(120, ge=0)
    extraction_batch_turns: int = Field(20, ge=1, le=500)
    extraction_attempts: int = Field(6, ge=1, le=100)
    extraction_retry_s: float = Field(5, gt=0)
    timezone: str = "UTC"
    run_worker: bool = True
    worker_lease_s: float = Field(15, ge=1)
    worker_metrics_port: int = Field(0, ge=0, le=65_535)

    @field_validator("upstream_base_url", "extraction_base_url", "embedding_base_url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value.rstrip("/")

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, value: str) -> str:
        if value and not value.startswith(STORE_SCHEMES):
            raise ValueError(f"must begin with one of {', '.join(STORE_SCHEMES)}")
        return value

    @field_validator("redis_username", "redis_password")
    @classmethod
    def _is_the_only_login(cls, value: str | SecretStr, info: ValidationInfo) -> str | SecretStr:
        if value and "@" in urlsplit(info.data.get("redis_url", "")).netloc:
            raise ValueError("redis_url has a user or password in it already: say it in one place")
        return value

    @field_validator("timezone")
    @classmethod
    def _is_zone(cls, value: str) -> str:
        try:
            _zone(value)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError("must be a time zone that this machine knows, such as Europe/Berlin, or UTC") from error
        return value

    @override
    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Options win over the environment, the environment over the file."""
        if not cls.reads_machine:
            return (init_settings,)
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def store_url(self) -> str:
        """The address of the store with user and password; empty for the embedded one. Not to be shown to anybody."""
        password = self.redis_password.get_secret_value() if self.redis_password else ""
        if not self.redis_url or not (self.redis_username or password):
            return self.redis_url
        scheme, _, rest = self.redis_url.partition("://")
        return f"{scheme}://{quote(self.redis_username, safe='')}:{quote(password, safe='')}@{rest}"

    @property
    def tells_tenants_apart(self) -> bool:
        """Whether each credential is a tenant of its own."""
        if self.tenancy is Tenancy.AUTO:
            return self.listen_host not in LOOPBACK
        return self.tenancy is Tenancy.KEY

    @property
    def extracts(self) -> bool:
        """Whether a model is asked to make memories."""
        has_access = bool(self.extraction_base_url or self.extraction_api_key or self.upstream_api_key)
        return bool(self.extraction_model) and has_access

    @property
    def zone(self) -> tzinfo:
        """The users' time zone."""
        return _zone(self.timezone)

    @property
    def recall_deadline(self) -> float:
        """Seconds that a search may take: what is set, else by how far away the store and the embedding model are."""
        host = urlsplit(self.redis_url).hostname
        search_s = 0.3 if host and host not in LOOPBACK else 0.2
        return self.recall_deadline_s or search_s + (self.embedding_query_timeout_s if self.embedding_model else 0)

    def tool_rules(self) -> tuple[str, str]:
        """The text of the file of rules for tools, and where it stands.

        Raises:
            SettingsError: the file can't be read.
        """
        path = self.tools_file or _packaged("tools.toml")
        try:
            return path.read_text("utf-8"), str(path)
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"The file {path} can't be read: {error}.") from error

    def windows(self) -> Mapping[str, int]:
        """Context windows in tokens by prefix of the model's name.

        Raises:
            SettingsError: the file can't be read or holds something else.
        """
        path = self.models_file or _packaged("models.toml")
        table = _parsed(path).get("windows")
        if not isinstance(table, dict) or not all(isinstance(value, int) and value > 0 for value in table.values()):
            raise SettingsError(f"The models file {path} needs a table [windows] of model prefixes with tokens.")
        return {str(prefix).lower(): value for prefix, value in table.items()}


def _zone(name: str) -> tzinfo:
    """UTC is known everywhere, other zones where the machine has the time zone database."""
    return UTC if name.upper() == "UTC" else ZoneInfo(name)


def _packaged(name: str) -> Path:
    """A file of config/: beside the package in a checkout, inside it in an installation."""
    package = Path(__file__).parent
    inside = package / "config" / name
    return inside if inside.exists() else package.parent / "config" / name


def read_settings(options: Mapping[str, Any]) -> Settings:
    """The settings of this process.

    `options` are those given on the command line; None means not given.

    Raises:
        SettingsError: a value or a name is wrong; the message says which, and where it came from.
    """
    file = options.get("config") or os.environ.get(PREFIX + "CONFIG")
    given = {name: value for name, value in options.items() if value is not None and name != "config"}
    from_file = _checked_file(Path(file)) if file else {}

    class SettingsWithFile(Settings):
        model_config = SettingsConfigDict(toml_file=file or None)

    try:
        checked = SettingsWithFile(**given)
    except ValidationError as error:
        raise SettingsError(_explained(error, given=given, from_file=from_file)) from error
    return Settings.model_construct(**dict(checked))


def settings_without_environment(given: Mapping[str, Any]) -> Settings:
    """Settings that nothing of the machine's own configuration reaches into.

    Raises:
        ValidationError: a value or a name is wrong.
    """

    class SettingsAlone(Settings):
        reads_machine = False

    return Settings.model_construct(**dict(SettingsAlone(**given)))


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Variables that look like settings and are none."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | {PREFIX + "CONFIG"}
    return sorted(name for name in environment if name.startswith(PREFIX) and name not in known)


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"The file {path} can't be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"The file {path} is not valid TOML: {error}.") from error


def _checked_file(path: Path) -> dict[str, Any]:
    values = _parsed(path)
    for name in values:
        if name not in Settings.model_fields:
            near = difflib.get_close_matches(name, Settings.model_fields, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise SettingsError(f"The settings file {path} has an unknown setting: {name}.{hint}")
    return values


def _explained(error: ValidationError, *, given: Mapping[str, Any], from_file: Mapping[str, Any]) -> str:
    lines = []
    for problem in error.errors():
        name = str(problem["loc"][0]) if problem["loc"] else "?"
        source = PREFIX + name.upper()
        if name in given:
            source = "the option --" + name.replace("_", "-")
        elif name in from_file and not os.environ.get(source):
            source = "the settings file"
        lines.append(f"The setting {name} (from {source}) is wrong: {problem['msg']}.")
    return "\n".join(lines)
