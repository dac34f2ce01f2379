"""What a run's identity holds, and what it does not."""

import numpy as np
import pytest

from rag_exp import config as configs
from rag_exp.core.errors import ConfigError
from rag_exp.core.fingerprint import ContentDigests
from rag_exp.steps import plan_run

DIGESTS = ContentDigests()
CLOSED = ["objective=closed_book", "retrieval=closed_book"]
CHAIN = ["questions.hops=2", "retrieval=two_hop", "objective=chain"]


def steps(*overrides):
    return plan_run(configs.compose(["debug=tiny", *overrides]).run, DIGESTS)


@pytest.fixture(scope="module")
def base():
    return steps()


@pytest.mark.parametrize(
    "override",
    [
        "trainer.threads=2",
        "trainer.progress=true",
        "trainer.checkpoint_every=7",
        "evaluation.batch_size=3",
        "logger=csv",
        "paths.root=elsewhere",
        "corpus.size=1200",  # the whole corpus, written as a number
        "corpus.size=999999",
        "evaluation.corpus_size=1200",
        "evaluation.k=3",
        "evaluation.source=index",
        "index@evaluation.index=flat",
        "prompt.passage_order=reverse",  # no order exists where each passage is read by itself
        "retrieval.shards=3",
        "retrieval.backend=ray",
        "trainer.embedders=3",
        "retrieval.ray.address=auto",
    ],
)
def test_what_cannot_change_a_result_is_not_in_the_id(base, override):
    assert steps(override).run_id == base.run_id


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "generator.size=s1",
        "training.lr=0.001",
        "training.warmup.lr=0.001",
        "optim.grad_clip=0.5",
        "training.batch_size=5",
        "training.precision=bf16",
        "prompt.template='Q {question} {passages}'",
        "retrieval.k=2",
        "retriever.temperature=2",
        "retriever.warmup.steps=5",
        "corpus.size=600",
        "corpus.world_seed=1",
        "evaluation.split=test",
        "evaluation.questions=10",
        "evaluation.decode=none",
        "objective=rag_token",
        "tokenizer.vocab_size=420",
        "encoder.storage=float16",
    ],
)
def test_what_can_change_a_result_is_in_the_id(base, override):
    assert steps(override).run_id != base.run_id


def test_evaluation_settings_share_the_checkpoint(base):
    for override in (
        "evaluation.corpus_size=600",
        "evaluation.k=2",
        "index@evaluation.index=bm25",
        "evaluation.source=random",
    ):
        other = steps(override)
        assert other.run_id != base.run_id
        assert other.roles["checkpoint"].key == base.roles["checkpoint"].key


def test_a_training_setting_changes_the_checkpoint_but_not_the_warmups(base):
    other = steps("corpus.size=600")
    assert other.roles["checkpoint"].key != base.roles["checkpoint"].key
    for role in ("passages", "tokenizer", "encoder", "reader_warmup"):
        assert other.roles[role].key == base.roles[role].key


def test_how_vectors_are_stored_changes_what_reads_them_but_not_the_encoder_or_its_questions(base):
    other = steps("encoder.storage=float16")
    for role in ("passages", "tokenizer", "encoder", "reader_warmup"):
        assert other.roles[role].key == base.roles[role].key
    for role in ("index", "topk", "checkpoint"):
        assert other.roles[role].key != base.roles[role].key
    stored, others = (run.roles["topk"].build.args[-1] for run in (base, other))
    assert stored.questions.key == others.questions.key
    assert stored.passages(0).key != others.passages(0).key
    assert stored.exact(0).key != others.exact(0).key


def test_search_parameters_belong_to_the_topk():
    a, b = steps("index=ivf", "index.nprobe=1"), steps("index=ivf", "index.nprobe=2")
    assert a.roles["index"].key == b.roles["index"].key
    assert a.roles["topk"].key != b.roles["topk"].key


def test_a_tuned_search_has_a_step_of_its_own():
    ivf = ["index=ivf", "index.mode=iso_recall"]
    one, other = steps(*ivf, "index.recall_target=0.9"), steps(*ivf, "index.recall_target=0.99")
    assert one.roles["index"].key == other.roles["index"].key == steps("index=ivf").roles["index"].key
    for role in ("tuning", "train_tuning", "topk"):
        assert one.roles[role].key != other.roles[role].key
    same = steps(*ivf, "index.recall_target=0.9", "index.nprobe=3")
    assert same.run_id == one.run_id
    assert "tuning" not in steps("index=ivf", "index.recall_target=0.9").roles
    smaller = steps(*ivf, "index.recall_target=0.9", "evaluation.corpus_size=600")
    assert smaller.roles["tuning"].key != one.roles["tuning"].key
    assert smaller.roles["train_tuning"].key == one.roles["train_tuning"].key


def test_a_hybrid_is_one_index_of_both_kinds(base):
    hybrid = steps("index=hybrid")
    assert "encoder" in hybrid.roles
    assert hybrid.roles["topk"].build.args[-1].exact is None
    ivf, other = (steps("index=hybrid", "index@index.dense=ivf", f"index.dense.nprobe={n}") for n in (1, 2))
    assert ivf.roles["index"].key == other.roles["index"].key != hybrid.roles["index"].key
    assert ivf.roles["topk"].key != other.roles["topk"].key
    asked = steps("index@evaluation.index=hybrid", "index@evaluation.index.dense=hnsw")
    assert asked.roles["checkpoint"].key == base.roles["checkpoint"].key


def test_rescoring_belongs_to_the_search():
    plain, rescored = steps("index=sq"), steps("index=sq", "index.rescore=4")
    assert plain.roles["index"].key == rescored.roles["index"].key
    assert plain.roles["topk"].key != rescored.roles["topk"].key


def test_exact_search_is_the_same_at_every_recall(base):
    assert steps("index.mode=iso_recall", "index.recall_target=0.9").run_id == base.run_id


def test_shards_that_find_what_one_index_finds_are_not_in_the_id():
    one, cut = steps("index=ivf"), steps("index=ivf", "retrieval.shards=4")
    assert one.run_id == cut.run_id
    one, cut = steps("index=hnsw"), steps("index=hnsw", "retrieval.shards=4")
    assert one.roles["index"].key != cut.roles["index"].key
    assert steps("index=hnsw", "retrieval.shards=1").run_id == one.run_id


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["index=bm25"], "retrieval.shards: 4: index=bm25 weighs words by the whole corpus"),
        (["retrieval.backend=ray", "trainer.embedders=2"], "trainer.embedders: 2: with retrieval.backend=ray"),
        (["index=bm25", "retrieval.backend=ray"], "retrieval.backend: ray: index=bm25 weighs words by the whole"),
        (["retriever=query"], "retrieval.shards: 4: a retriever that trains searches in its own process"),
        (
            ["index=factory", "index.string='IVF16,PQ4x4,RFlat'"],
            "retrieval.shards: 4: of a shard of 300 passages, index.string: IVF16,PQ4x4,RFlat trains 16 centroids",
        ),
    ],
)
def test_what_cannot_be_cut_into_shards_is_said_before_any_work(overrides, problem):
    with pytest.raises(ConfigError) as error:
        steps("retrieval.shards=4", *overrides)
    assert any(p.startswith(problem) for p in error.value.problems)


def test_an_index_that_is_built_once_is_shared_by_all_sizes():
    small, smaller, whole = (
        steps("index=ivf", "index.built=once", "index.nlist=8", f"corpus.size={m}") for m in (800, 1000, "null")
    )
    rebuilt = steps("index=ivf", "index.nlist=8", "corpus.size=1000")
    assert small.roles["index"].key == smaller.roles["index"].key == whole.roles["index"].key
    assert rebuilt.roles["index"].key != whole.roles["index"].key
    assert len({s.roles["topk"].key for s in (small, smaller, whole, rebuilt)}) == 4
    cut = steps("index=ivf", "index.built=once", "index.nlist=8", "corpus.size=800", "retrieval.shards=3")
    assert cut.run_id == small.run_id
    # Nothing is selected of the whole corpus, nor by what reads the vectors themselves.
    assert whole.run_id == steps("index=ivf", "index.nlist=8", "corpus.size=null").run_id
    assert steps("index=flat", "index.built=once").run_id == steps("index=flat").run_id


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["index=annoy"], r"index\.built: once: index=annoy takes no selection"),
        (["index=pq"], r"index\.built: once: index=pq \(PQ\{m\}\) takes no selection"),
        (["index=factory", "index.string=NSG32"], r"index=factory \(NSG32\) takes no selection"),
        (["index=factory", "index.string=RaBitQfs"], r"index=factory \(RaBitQfs\) takes no selection"),
        (["index=ivf", "retriever=query"], "retriever.train=query builds its index as it learns"),
    ],
)
def test_what_takes_no_selection_is_said_before_any_work(overrides, says):
    with pytest.raises(ConfigError, match=says):
        steps(*overrides, "index.built=once")


def test_neither_words_nor_a_hybrid_take_a_selection():
    with pytest.raises(ConfigError, match=r"index\.built: unknown key.*built belongs to"):
        steps("index=bm25", "index.built=once")
    with pytest.raises(ConfigError, match=r"index\.dense\.built: once: a hybrid takes no selection"):
        steps("index=hybrid", "index.dense.kind=ivf", "index.dense.built=once")


def test_a_closed_book_run_knows_no_index(base):
    a = steps("retrieval=closed_book")
    b = steps("retrieval=closed_book", "index=bm25", "corpus.size=600", "encoder.dims=24", "retrieval.k=2")
    assert a.run_id == b.run_id != base.run_id
    assert not {"index", "train_index", "topk", "encoder"} & set(a.roles)


def test_an_oracle_run_knows_no_encoder():
    a, b = steps("retrieval=oracle"), steps("retrieval=oracle", "encoder.dims=24", "index=bm25")
    assert a.run_id == b.run_id
    assert "encoder" not in a.roles


def test_bm25_needs_no_encoder():
    assert "encoder" not in steps("index=bm25").roles


def test_files_count_by_content_not_by_place(tmp_path):
    def plan(folder):
        folder.mkdir()
        (folder / "p.jsonl").write_text(
            '{"id": "1", "title": "t", "text": "x"}\n{"id": "2", "title": "t", "text": "y"}\n'
        )
        (folder / "q.jsonl").write_text('{"question": "x?", "answers": ["x"], "gold": ["1"]}\n')
        return (f"corpus=jsonl questions=jsonl corpus.files={folder}/p.jsonl retrieval.k=1 "
                f"questions.files.train={folder}/q.jsonl questions.files.dev={folder}/q.jsonl").split()  # fmt: skip

    def run_id(overrides):
        return plan_run(configs.compose(overrides).run, DIGESTS).run_id

    a, b = plan(tmp_path / "a"), plan(tmp_path / "b")
    assert run_id(a) == run_id(b)
    with (tmp_path / "b" / "p.jsonl").open("a") as f:
        f.write('{"id": "3", "title": "t", "text": "z"}\n')
    assert run_id(a) != run_id(b)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["retrieval.k=5000"], "5000 passages cannot be read from a corpus of 1200"),
        (["evaluation.corpus_size=2", "evaluation.k=3"], "raise evaluation.corpus_size"),
        (["index=ivf", "index.nlist=64"], "39"),
        (["index=ivf", "index.mode=iso_recall", "retriever=query"], "index@evaluation.index=ivf"),
        (["index=ivf", "index.mode=iso_recall", "evaluation.split=train"], "those that are asked must be others"),
        (["index=hybrid", "retriever=query"], "index=hybrid ranks by what no gradient reaches"),
        (["index=hybrid", "retrieval.shards=2"], "weighs words by the whole corpus"),
        (["index=hybrid", "questions.hops=2", "retrieval=two_hop", "objective=chain"], "has no second hop"),
        (["index=hybrid", "index@index.dense=ivf", "index.dense.nlist=64"], "index.dense.nlist: 64 lists"),
        (["questions.world_seed=3"], "both must describe one world"),
        (["retrieval=closed_book", "evaluation.source=index"], "trained without passages"),
        (["retriever=query", "index=bm25"], "no encoder to train"),
        (["retriever=both", "retrieval=oracle"], "does not retrieve"),
        (["retriever=query", "objective=concat"], "would get no gradient"),
        (["objective=closed_book"], "objective=closed_book reads no passages; use retrieval=closed_book"),
        (["objective=emdr2"], "teaches a retriever, and none trains; use retriever.train=query"),
        (["objective=pdist", "retrieval=oracle"], "teaches a retriever, and none trains"),
        (["objective=ensemble"], "nor does the reader: use training.steps=0"),
        (["objective=fid"], "generator=t5, generator=bart"),
        (["objective=adist", "retriever=query"], "objective=adist needs a decoder that attends to encoded passages"),
        (["objective=adist", "generator=t5"], "objective=adist teaches a retriever, and none trains"),
        (["objective=adist", "generator=t5", "retriever=query", "retrieval=oracle"], "does not retrieve"),
        (["objective=fid", "generator=t5", "retriever=query"], "would get no gradient"),
        (["objective=ensemble", "retrieval=closed_book"], "has nothing to train; use training.steps=0"),
        (["retriever.learn_temperature=true", "training.steps=0"], "training.steps=0 trains nothing"),
        (["retriever.learn_temperature=true", "retrieval=oracle"], "retrieval.source=oracle has no scores"),
        (["retriever.learn_temperature=true", "objective=concat"], "objective=concat reads all passages together"),
        (["retriever.learn_temperature=true", *CHAIN], "or retriever.train=query or both"),
        (["retriever.null_document=learned", "training.steps=0"], "use retriever.null_document=fixed"),
        (["retriever.null_document=fixed"], "retriever.null_score: auto: with retriever.null_document=fixed"),
        (["retriever.null_document=fixed", "retrieval=random"], "retrieval.source=random has no scores to weigh it"),
        (["retriever.null_document=fixed", *CHAIN], "objective=chain has no sum over single passages"),
        (["retriever.null_document=fixed", "objective=concat"], "objective=concat has no sum over single passages"),
        (["retriever.null_document=fixed", "objective=fid", "generator=t5"], "objective=fid has no sum"),
        (["retriever.null_document=fixed", "objective=loop", "retriever=query"], "objective=loop has no sum"),
        (
            ["retriever.null_document=fixed", "objective=adist", "generator=t5", "retriever=query"],
            "objective=adist has",
        ),
        (["retriever.null_document=fixed", *CLOSED], "objective=closed_book has no sum over single passages"),
        (
            ["retriever.null_document=fixed", "objective=emdr2", "objective.reader=concat", "retriever=query"],
            "emdr2 or pdist with objective.reader=each",
        ),
        (
            ["retriever.null_score=inf", "retriever.null_document=fixed"],
            "retriever.null_score.float: input should be a finite",
        ),
    ],
)
def test_what_is_wrong_across_fields_is_said_before_any_work(overrides, says):
    with pytest.raises(ConfigError) as e:
        steps(*overrides)
    assert any(says in p for p in e.value.problems), e.value.problems


@pytest.fixture(scope="module")
def chain():
    return steps(*CHAIN)


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("retrieval.hop2.paths=3", ("encoder", "topk", "paths", "reader_warmup")),
        ("retrieval.hop2.j=4", ("encoder", "topk", "reader_warmup")),
        ("retrieval.hop2.query='{question}'", ("reader_warmup",)),
        ("objective.prior=global", ("encoder", "topk", "paths", "reader_warmup")),
        ("evaluation.paths=3", ("encoder", "topk", "paths", "checkpoint")),
        ("evaluation.j=3", ("encoder", "topk", "checkpoint")),
        ("evaluation.source=oracle", ("encoder", "checkpoint")),
    ],
)
def test_what_the_settings_of_a_second_hop_change(chain, override, same):
    other = steps(*CHAIN, override)
    assert other.run_id != chain.run_id
    for role in same:
        assert other.roles[role].key == chain.roles[role].key
    for role in {"encoder", "topk", "paths", "checkpoint"} & set(other.roles) - set(same):
        assert other.roles[role].key != chain.roles[role].key


def test_hops_share_the_embeddings_of_an_encoder_that_comes_trained(tmp_path):
    (tmp_path / "modules.json").write_text("[]")

    def embeddings(*overrides):
        config = configs.compose(["corpus=closed_world", "questions=closed_world_two_hop", *overrides]).run
        index = plan_run(config, DIGESTS).roles["index"]
        vectors = index.build.args[2]
        return index.parents["encoder"].key, vectors.passages(0).key

    trained = ["encoder=sentence_transformers", f"encoder.model={tmp_path}"]
    for given, shared in (
        (["retriever.warmup.steps=auto", *trained], True),
        (["retriever.warmup.steps=2", *trained], False),
        (["retriever.warmup.steps=0", "encoder=static"], False),  # its token weights are set by what it warms up on
    ):
        encoder, vectors = embeddings(*given)
        of_chain, vectors_of_chain = embeddings("retrieval=two_hop", "objective=chain", *given)
        assert of_chain != encoder  # the scale of its questions is another
        assert (vectors_of_chain == vectors) == shared


def test_one_hop_knows_nothing_of_a_second(base):
    assert "paths" not in base.roles
    assert "hop2" not in base.roles["encoder"].fields


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["retrieval=two_hop"], "use objective=chain"),
        (["objective=chain"], "use retrieval=two_hop"),
        ([*CHAIN, "retrieval.hop2.paths=26"], "26 paths cannot be read of 3 x 5"),
        ([*CHAIN, "retrieval.hop2.j=1200"], "corpus of 1200"),
        ([*CHAIN, "evaluation.source=random", "retrieval.hop2.paths=601", "retrieval.hop2.j=300"], "random pairs"),
        (["evaluation.j=3"], "no second hop"),
    ],
)
def test_what_is_wrong_with_a_second_hop(overrides, says):
    with pytest.raises(ConfigError) as e:
        steps(*overrides)
    assert any(says in p for p in e.value.problems), e.value.problems


def test_a_missing_file_is_said_before_any_work():
    with pytest.raises(ConfigError, match=r"corpus\.files.*absent\.jsonl"):
        plan_run(configs.compose(["corpus=jsonl", "corpus.files=absent.jsonl"]).run, DIGESTS)


def test_distractor_growth_is_another_corpus_of_the_same_questions(base):
    other = steps("evaluation.growth=distractor")
    assert other.roles["evaluation_passages"].key != base.roles["passages"].key
    assert other.roles["checkpoint"].key == base.roles["checkpoint"].key


@pytest.mark.parametrize(
    ("overrides", "split"),
    [
        (["task=retrieval", "index=bm25"], "dev"),
        (["task=retrieval"], "train"),  # the encoder learns on questions of training
        (["index=bm25"], "train"),
        (["index=bm25", "training.steps=0", "training.warmup.steps=0"], "dev"),
    ],
)
def test_gold_of_questions_that_nothing_learns_from_does_not_come_first(overrides, split):
    found = steps("corpus.growth=distractor", *overrides)
    assert found.roles["passages"].fields["gold"]["splits"] == [split]
    assert ("evaluation_passages" in found.roles) == (split == "train")


def test_the_order_of_distractors_is_known_to_distractor_growth_alone(base):
    assert steps("corpus.distractors=bm25").run_id == base.run_id
    any_order, nearest = (steps("corpus.growth=distractor", f"corpus.distractors={d}") for d in ("any", "bm25"))
    assert any_order.run_id == steps("corpus.growth=distractor").run_id
    assert "distractors" not in any_order.roles["passages"].fields["corpus"]
    assert nearest.roles["passages"].key != any_order.roles["passages"].key
    asked = steps("evaluation.growth=distractor", "corpus.distractors=bm25")
    assert asked.roles["checkpoint"].key == base.roles["checkpoint"].key
    assert asked.roles["evaluation_passages"].fields["corpus"]["distractors"] == "bm25"


VECTORS = ("passages", "passage_ids", "questions", "question_ids")
DENSE = ["corpus.distractors=dense", "encoder@distractors_encoder=precomputed"]


@pytest.fixture
def dense(tmp_path):
    """What orders distractors by vectors that were made elsewhere."""
    for name in VECTORS:
        np.save(tmp_path / f"{name}.npy", np.zeros((2, 3), np.float32))
    return [*DENSE, *(f"distractors_encoder.{name}={tmp_path / name}.npy" for name in VECTORS)]


def test_the_order_by_vectors_is_of_its_encoder_and_its_questions(base, dense, tmp_path):
    assert steps(*dense).run_id == base.run_id
    asked = steps("evaluation.growth=distractor", *dense)
    assert asked.roles["checkpoint"].key == base.roles["checkpoint"].key
    near = asked.roles["evaluation_nearness"]
    assert asked.roles["evaluation_passages"].parents == {"nearness": near}
    assert near.parents["passages"].key == base.roles["passages"].key == asked.roles["hash_order"].key
    assert near.parents["questions"].key == base.roles["questions"].key
    for same in ("encoder.dims=8", "retriever.warmup.steps=9", "tokenizer.vocab_size=300", "seed=3"):
        assert steps("evaluation.growth=distractor", *dense, same).roles["evaluation_nearness"].key == near.key
    np.save(tmp_path / "passages.npy", np.ones((2, 3), np.float32))
    other = plan_run(configs.compose(["debug=tiny", "evaluation.growth=distractor", *dense]).run, ContentDigests())
    assert other.roles["evaluation_nearness"].key != near.key
    assert other.roles["evaluation_passages"].key != asked.roles["evaluation_passages"].key
    both = steps("corpus.growth=distractor", *dense)
    assert both.roles["nearness"].fields["split"] == "train"
    assert both.roles["evaluation_nearness"].fields["split"] == "dev"
    assert both.roles["nearness"].parents == both.roles["evaluation_nearness"].parents


@pytest.mark.parametrize(
    ("overrides", "once"),
    [
        (["evaluation.growth=distractor"], True),
        (["corpus.growth=distractor"], True),
        ([], False),  # nothing is put in order
        (["evaluation.growth=distractor", "corpus.distractors=bm25"], False),
        (["evaluation.growth=distractor", "retriever.warmup.steps=3"], False),  # it does not stay as it came
        (["evaluation.growth=distractor", "encoder.storage=float16"], False),
    ],
)
def test_passages_are_embedded_once_where_the_encoder_is_the_same(tmp_path, overrides, once):
    (tmp_path / "modules.json").write_text("[]")
    same = [f"{group}.model={tmp_path}" for group in ("encoder", "distractors_encoder")]
    words = ["encoder=minilm", "corpus.distractors=dense", "retriever.warmup.steps=0", *same, *overrides]
    words += ["~encoder.dims"]
    assert steps(*words).embeds_once == once


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["encoder@distractors_encoder=static"], "distractors_encoder.kind: static is trained on the corpus"),
        (["encoder@distractors_encoder=points"], "distractors_encoder.kind: points reads the numbers"),
        (["distractors_encoder=null"], "needs an encoder that comes trained; use encoder@distractors_encoder=minilm"),
        (["distractors_encoder.model=package:no_such_model"], "distractors_encoder.model: the package no_such_model"),
        (
            [
                "encoder@distractors_encoder=precomputed",
                "distractors_encoder.questions=q.npy",
                "distractors_encoder.question_ids=q.txt",
            ],
            "distractors_encoder.passages: null: passages' vectors",
        ),
    ],
)
def test_what_cannot_put_distractors_in_order(base, overrides, says):
    assert steps("corpus.distractors=dense", *overrides).run_id == base.run_id  # nothing is put in order
    with pytest.raises(ConfigError) as e:
        steps("evaluation.growth=distractor", "corpus.distractors=dense", *overrides)
    assert any(says in p for p in e.value.problems), e.value.problems


@pytest.mark.parametrize(
    "overrides",
    [
        ["objective=closed_book", "retrieval=closed_book"],
        ["objective=emdr2", "retriever=query"],
        ["objective=emdr2", "retriever=query", "retrieval=closed_book"],  # the closed-book arm of such a study
        ["objective=pdist", "retriever=both", "objective.reader=concat"],
        ["objective=fid", "generator=t5"],
        ["objective=adist", "generator=t5", "retriever=query"],
        ["objective=adist", "generator=bart", "retriever=both", "objective.value_norms=false"],
        ["objective=loop", "retriever=query"],
        ["objective=emdr2", "objective.reader=fid", "generator=bart", "retriever=query"],
        ["objective=ensemble", "training.steps=0"],
        ["objective=ensemble", "retriever=query"],
        ["objective=pdist", "retriever=query", "retriever.null_document=learned"],
        ["objective=ensemble", "training.steps=0", "retriever.null_document=fixed", "retriever.null_score=-3"],
        ["objective=ensemble", "retriever.learn_temperature=true"],  # the prior is what it teaches
        ["objective=emdr2", "retriever.null_document=learned"],
        ["objective=emdr2", "retriever=query", "objective.reader=concat", "retriever.learn_temperature=true"],
        [*CHAIN, "retriever=query", "retriever.learn_temperature=true"],
    ],
)
def test_objectives_that_go_with_the_rest(base, overrides):
    assert steps(*overrides).run_id != base.run_id


def test_a_prior_that_learns_is_in_the_id_only_where_it_is_on(base):
    assert steps("retriever.prior_lr=0.5").run_id == base.run_id
    learns = steps("retriever.learn_temperature=true")
    for role in ("topk", "train_topk", "reader_warmup"):
        assert learns.roles[role].key == base.roles[role].key
    assert learns.roles["checkpoint"].key != base.roles["checkpoint"].key
    assert steps("retriever.learn_temperature=true", "retriever.prior_lr=0.5").run_id != learns.run_id
    assert base.roles["checkpoint"].fields.keys() & {"learn_temperature", "prior_lr"} == set()
    for off, on in (("none", "fixed"), ("fixed", "learned")):
        ids = {steps(f"retriever.null_document={mode}", "retriever.null_score=1").run_id for mode in (off, on)}
        assert len(ids) == 2
    assert steps("retriever.null_score=1").run_id == base.run_id
    closed = steps("retrieval=closed_book")
    for on in ("retriever.learn_temperature=true", "retriever.null_document=learned"):
        assert steps("retrieval=closed_book", on).run_id == closed.run_id
    arm = steps("retriever.null_document=learned", "evaluation.source=oracle")
    assert (arm.train.null, arm.asked.null) == (True, False)


def test_the_first_objectives_are_named_as_ever(base):
    """Run ids of before there were others: a study that was run is not run again."""
    assert base.roles["checkpoint"].fields["objective"] == {"kind": "rag_sequence"}
    assert base.roles["evaluation"].fields["objective"] == {"kind": "rag_sequence"}


def test_exact_search_is_shared_by_sizes_indexes_and_search_parameters(base):
    def exact(*overrides):
        vectors = steps("evaluation.corpus_size=600", *overrides).roles["topk"].build.args[-1]
        return vectors.exact(0).key

    one = exact()
    for same in (["evaluation.corpus_size=900"], ["index@evaluation.index=ivf"], ["evaluation.k=2"]):
        assert exact(*same) == one
    assert exact("retriever.temperature=2") != one
    assert exact("evaluation.k=33") != one


def test_training_questions_are_not_compared_with_exact_search(base):
    assert base.roles["train_topk"].build.args[-1].exact is None
    assert "temperature" not in base.roles["train_topk"].fields
    assert base.roles["topk"].fields["temperature"] == 1.0
