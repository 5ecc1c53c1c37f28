"""The workers of one process."""

from tests.fakes.serving import Serve, until


async def test_workers_learn_while_requests_go_on_and_stop_with_the_process(serve: Serve) -> None:
    """What is said becomes a memory without any further request; ending the process ends its workers."""
    async with serve() as served, served.openai("/u/alice/s/one/v1") as client:
        await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "My cat is called Whiskers."}]
        )
        await served.settled()
        services = served.instance.services
        metrics = services.metrics.render()
    assert b'memproxy_jobs_total{event="turns.done"} 1.0' in metrics


async def test_a_process_may_serve_without_workers(serve: Serve) -> None:
    """Where workers run apart, turns wait in the queue for them."""
    async with serve(run_worker=False) as served:
        async with served.openai("/u/alice/s/one/v1") as client:
            await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "My cat is called Whiskers."}]
            )

        async def is_recorded() -> bool:
            return served.instance.app.recorder.is_idle

        await until(is_recorded)
        assert not await served.instance.is_quiet()
    async with serve() as served:
        await served.settled()
        async with served.openai("/u/alice/s/two/v1") as client:
            await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "What is my cat called?"}]
            )
        assert b"Whiskers" in served.model.requests[-1].raw_body
