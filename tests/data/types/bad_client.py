"""Mistakes that a type checker should find; each says which."""

import kie_mj_async as mj
from kie_mj_async import cluster


async def mistakes(client: mj.Client, outcome: mj.Outcome) -> None:
    mj.Client(1)  # E: arg-type / reportArgumentType
    mj.Client(in_flight="many")  # E: arg-type / reportArgumentType
    mj.Client(on_unknown="hope")  # E: arg-type / reportArgumentType
    mj.Client(key="any")  # E: call-arg / reportCallIssue
    mj.Clint()  # E: attr-defined / reportAttributeAccessIssue
    cluster.Clustre()  # E: attr-defined / reportAttributeAccessIssue
    await client.generate()  # E: call-arg / reportCallIssue
    await client.generate(7)  # E: arg-type / reportArgumentType
    await client.upscale("9f47c52047dda21b", "0")  # E: arg-type / reportArgumentType
    await client.resolve("out/", "forget")  # E: arg-type / reportArgumentType
    client.render("prompts.txt")  # E: call-arg / reportCallIssue
    for _ in client.render(["a fox"], "out/"):  # E: attr-defined / reportGeneralTypeIssues
        pass
    client.generate("a fox").urls  # E: attr-defined / reportAttributeAccessIssue
    print(outcome.paths)  # E: union-attr / reportAttributeAccessIssue
    made = await client.generate("a fox")
    made.urls = ()  # E: misc / reportAttributeAccessIssue
    made.urls.append("")  # E: attr-defined / reportAttributeAccessIssue
    mj.TextToImage()  # E: call-arg / reportCallIssue
    mj.TextToImage("a fox", stylization="high")  # E: arg-type / reportArgumentType
    mj.TextToImage("a fox", "16:9")  # E: call-arg / reportCallIssue
    mj.ImageToVideo("it runs")  # E: call-arg / reportCallIssue
    client.subscribe(print("a fox"))  # E: arg-type / reportArgumentType
    client.subscribe(lambda: None)  # E: arg-type / reportArgumentType
    client.render(["a fox"], "out/").progress().saved = 1  # E: misc / reportAttributeAccessIssue
    mj.events.JobSent  # E: attr-defined / reportAttributeAccessIssue
