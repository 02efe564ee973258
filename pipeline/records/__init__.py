"""The JSON files that stages write for one another: one frozen class per file, which writes and reads itself.

Results hold no times, dates or machines, so that the same inputs give the same bytes. Those are in `LogRecord`.
"""

from pipeline.records.assessment import (
    AssessmentRecord,
    PairRecord,
    SourceRecord,
    StartRecord,
    SubsetRecord,
    SubsetScores,
    ViewsRecord,
)
from pipeline.records.cost import BatchCost, CostRecord, ModelCost
from pipeline.records.data import ManifestRecord
from pipeline.records.exports import ExportRecord
from pipeline.records.probes import ProbeRecord, ProbeSplitRecord, ProbeViewsRecord
from pipeline.records.record import CHECKSUM, LogRecord, Metric, Record, Scores, from_json, mean_score, to_json
from pipeline.records.runs import (
    BundleRecord,
    CandidateRecord,
    ClassRecord,
    DetailsRecord,
    DiagnosticsRecord,
    EvaluationRecord,
    GatesRecord,
    MethodRecord,
    MixtureRecord,
    PenaltyRecord,
    RepresentationRecord,
    RunRecord,
    SeedScores,
    StudentRecord,
    TeacherRecord,
    TrialRecord,
)
from pipeline.records.sweeps import PointRecord, SweepRecord, SweepStatus

__all__ = [
    "CHECKSUM",
    "AssessmentRecord",
    "BatchCost",
    "BundleRecord",
    "CandidateRecord",
    "ClassRecord",
    "CostRecord",
    "DetailsRecord",
    "DiagnosticsRecord",
    "EvaluationRecord",
    "ExportRecord",
    "GatesRecord",
    "LogRecord",
    "ManifestRecord",
    "MethodRecord",
    "Metric",
    "MixtureRecord",
    "ModelCost",
    "PairRecord",
    "PenaltyRecord",
    "PointRecord",
    "ProbeRecord",
    "ProbeSplitRecord",
    "ProbeViewsRecord",
    "Record",
    "RepresentationRecord",
    "RunRecord",
    "Scores",
    "SeedScores",
    "SourceRecord",
    "StartRecord",
    "StudentRecord",
    "SubsetRecord",
    "SubsetScores",
    "SweepRecord",
    "SweepStatus",
    "TeacherRecord",
    "TrialRecord",
    "ViewsRecord",
    "from_json",
    "mean_score",
    "to_json",
]
