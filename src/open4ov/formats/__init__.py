"""In and out: the data formats of the field, read into `Sample`s and written from them.

registry.py       the formats by name, and which one a file or folder is in
convert.py        a source -> a folder of ours (samples.parquet, image-store/); a folder of ours -> an export
row.py            a row of a file <-> a Sample, and what the row's own form cannot hold
pictures.py       what rows call an image (path, data URL, bytes) -> the image store
one file a format: folder.py messages.py conversations.py pairs.py parquet.py webdataset.py vlmevalkit.py dicom.py
card.py           the dataset card beside an export
"""
