"""The built wheel, without extras: make a picture with a simulator, and save it."""

import asyncio
import sys
import tempfile
from pathlib import Path

import kie_mj_async as mj
from kie_mj_async.simulator import Simulator


async def main() -> None:
    assert "site-packages" in mj.__file__, mj.__file__
    assert (Path(mj.__file__).parent / "py.typed").is_file()
    with tempfile.TemporaryDirectory() as folder:
        async with (
            Simulator(time_scale=0.01) as simulator,
            mj.Client("any", base_url=simulator.url, state_dir=folder) as client,
        ):
            result = await client.generate("a fox in the snow")
            paths = await result.save(Path(folder) / "fox")
            video = await client.generate(
                mj.ImageToVideo("it runs", image="https://example.com/fox.png")
            )
            paths += await video.save(Path(folder) / "fox")
        print(*(f"{path.name}: {path.stat().st_size} bytes" for path in paths), sep="\n")
        assert len(paths) == 5
    for extra in ("click", "rich", "PIL"):
        assert extra not in sys.modules, extra


asyncio.run(main())
