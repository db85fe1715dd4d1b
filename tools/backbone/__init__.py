"""How the embedded net was trained: its pictures, the teacher's answers, the student and its losses."""
